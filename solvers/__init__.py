"""How to decide: mapping and placement problems stated as arrays, and solvers for them."""
