"""The commands of `mmclr data`, a file each."""
