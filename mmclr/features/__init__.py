"""Providers, which compute named features of a batch: one a file, found by walking this folder."""
