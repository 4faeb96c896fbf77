"""Sources that compute named features from a batch."""
