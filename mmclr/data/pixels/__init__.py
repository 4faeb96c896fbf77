"""The image side of a sample: members become pixels, and are cropped and coloured."""
