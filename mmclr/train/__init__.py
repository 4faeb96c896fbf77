"""The step, the run, and everything that keeps it from being lost."""
