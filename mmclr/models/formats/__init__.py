"""Model folders on disk: found, checked, read and written."""
