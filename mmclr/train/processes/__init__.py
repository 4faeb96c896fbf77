"""The processes and threads of a run."""
