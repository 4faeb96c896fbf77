"""Small modules on top of a tower."""
