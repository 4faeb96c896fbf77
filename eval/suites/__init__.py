"""Evaluation suites, a file each."""
