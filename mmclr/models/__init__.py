"""The two towers, our own and foreign ones."""
