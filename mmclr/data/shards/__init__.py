"""Bytes of shards: addresses, stores, tar, indices."""
