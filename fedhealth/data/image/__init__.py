"""Image files: decoding, grey levels and geometry."""
