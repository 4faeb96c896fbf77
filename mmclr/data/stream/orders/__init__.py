"""Orders of the samples, one file each, found by walking: see `mmclr.data.stream.order`."""
