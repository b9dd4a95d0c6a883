"""Which slot computes which segment: the problem, its evaluation and bounds, and one file a solver."""
