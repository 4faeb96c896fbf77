"""Suites that learn from labelled images."""
