"""Estimates of a run before it starts: memory, and one step of it."""
