"""Objectives about terms that shape the geometry of the embedding."""
