"""Shards in, batches out: index, order, decode, transforms, text, loader."""
