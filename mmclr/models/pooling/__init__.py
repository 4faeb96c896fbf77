"""Several images of one sample become one embedding."""
