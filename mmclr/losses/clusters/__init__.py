"""Objectives about prototypes, clusters and cluster labels."""
