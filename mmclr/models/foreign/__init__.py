"""Towers of other libraries in place of ours."""
