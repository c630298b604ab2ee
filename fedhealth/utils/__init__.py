"""General tools: atomic files, digests, hash chains, YAML models."""
