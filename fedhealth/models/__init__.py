"""Multimodal models: one encoder per modality, learned missing-modality tokens, fusion."""
