"""The log of a run, its clock and its trackers."""
