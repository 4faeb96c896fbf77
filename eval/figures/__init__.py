"""Figures and examples for the report."""
