"""Image files: decoding, display values and geometry."""
