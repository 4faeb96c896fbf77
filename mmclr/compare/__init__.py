"""Several configs on one budget, several seeds, and which is better."""
