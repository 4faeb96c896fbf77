"""Suites about the embeddings themselves."""
