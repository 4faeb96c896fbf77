"""Suites that classify images from words."""
