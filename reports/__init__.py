"""How to show a run: one HTML page, plots, tables, a Perfetto trace. Reads the run folder and nothing else."""
