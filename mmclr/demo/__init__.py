"""The whole way once, on real icons."""
