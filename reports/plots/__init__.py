"""The figures, one file each: a record goes in, an SVG comes out."""
