"""The process that everything runs in: its memory and its threads."""
