"""Commands that add to samples."""
