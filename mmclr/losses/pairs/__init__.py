"""Objectives about pairs: which pair is positive, and what the negatives are."""
