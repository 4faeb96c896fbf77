"""Checkpoints of a run: folders, what they hold, when and where they are saved."""
