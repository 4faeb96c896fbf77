"""Commands of `mmclr eval` that are no suites."""
