"""Time real layers on the machine at hand, into rows of the tidy table."""
