"""mmclr: pretrain, evaluate and export image-text models on your own tar shards."""

__version__ = "0.1.0"
