"""Evaluation sets, wherever they come from."""
