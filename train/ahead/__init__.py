"""`pure compile`: the real programs, compiled for a named TPU slice on a machine that has none."""
