"""Write and inspect shards."""
