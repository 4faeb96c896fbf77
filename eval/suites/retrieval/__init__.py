"""Suites that rank or match captions and images."""
