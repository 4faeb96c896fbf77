"""Commands that write shards or sets from something else."""
