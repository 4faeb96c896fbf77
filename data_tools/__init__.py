"""Write and inspect shards."""

import mmclr  # noqa: F401 - old names of these modules are found by it
