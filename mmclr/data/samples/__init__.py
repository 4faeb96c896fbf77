"""Samples: fields, images, captions, texts, and what is skipped."""
