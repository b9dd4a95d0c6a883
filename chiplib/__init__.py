"""What hardware exists, and its physics: datasheets, links, packages, energy, cost."""
