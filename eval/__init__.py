"""Read a trained model, print and save one Result."""
