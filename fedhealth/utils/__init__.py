"""Small tools without a subject of their own: files, hash chains, YAML models."""
