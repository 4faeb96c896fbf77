"""Copies of images, made on the device where the images are: makers of pixel sets."""
