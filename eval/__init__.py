"""Read a trained model, print and save one Result."""

import mmclr  # noqa: F401 - old names of these modules are found by it
