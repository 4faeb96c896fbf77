"""Tables that people bring, row by row."""
