"""Commands that look at shards."""
