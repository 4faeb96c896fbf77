"""The catalogue of objectives, and PAPERS.md."""
