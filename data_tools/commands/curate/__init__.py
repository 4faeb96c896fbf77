"""Commands that choose or label samples."""
