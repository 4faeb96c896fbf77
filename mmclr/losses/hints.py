"""Sentences for who trains, about what an objective sees in its batches and cannot know before."""

from __future__ import annotations

import warnings

from mmclr import parallel

MANY = 32  # samples of a batch in which something that is not there is likely to be missing everywhere


def hint(text: str) -> None:
    """Warn, on the first rank alone; Python says the same sentence once."""
    if parallel.rank() == 0:
        warnings.warn(text, stacklevel=3)
