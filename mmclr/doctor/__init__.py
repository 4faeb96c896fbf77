"""Check a machine, and a run before it starts."""
