"""Our own towers: CLIP's architecture, batched and packed."""
