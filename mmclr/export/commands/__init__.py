"""The commands of `mmclr export`, a file each."""
