"""Training: the loop, what it is built from, the run folder and what is in it."""
