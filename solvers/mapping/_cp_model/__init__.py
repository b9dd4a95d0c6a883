"""The CP-SAT model of a mapping problem, a file for each thing that it states."""
