"""Embeddings of a set, each computed once."""
