"""The models of the catalogue: one file a family, and the layers that families share."""
