"""What is computed: traced workload graphs, their segments, and the models of the catalogue."""
