"""Objectives about hard or synthesised negatives."""
