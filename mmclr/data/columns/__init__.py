"""Values per sample beside a shard."""
