"""How good a design is, and which is best: cost table, simulation, study."""
