"""Fifteen tiny Hugging Face encoders, made by the test: ten for text (with a tokenizer), five for images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = ["[UNK]", "better", "worse", "today", "oxygen", "given", "ward", "walks", "seen", "on", "the", "about"]
_BERT = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
}
_IMAGE = {"image_size": 32, "patch_size": 8, "num_channels": 3}
_VIT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, **_IMAGE}
# class of the configuration and of the network, and its sizes
TEXT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertModel", _BERT),
    "roberta": ("RobertaConfig", "RobertaModel", _BERT),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertModel",
        {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 40},
    ),
    "albert": ("AlbertConfig", "AlbertModel", {**_BERT, "embedding_size": 4}),
    "deberta": (
        "DebertaV2Config",
        "DebertaV2Model",
        {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    ),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertModel",
        {**_BERT, "global_attn_every_n_layers": 2, "local_attention": 8, "reference_compile": False},
    ),
    "minilm": ("BertConfig", "BertModel", {**_BERT, "num_attention_heads": 4, "intermediate_size": 32}),
    "t5": ("T5Config", "T5Model", {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}),
    "xlnet": ("XLNetConfig", "XLNetModel", {"d_model": 8, "n_layer": 2, "n_head": 2, "d_inner": 16}),
    "gpt2": ("GPT2Config", "GPT2Model", {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 40}),
}
IMAGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTModel", _VIT),
    "swin": (
        "SwinConfig",
        "SwinModel",
        {**_IMAGE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    ),
    "clip": ("CLIPVisionConfig", "CLIPVisionModel", {**_VIT, "projection_dim": 8}),
    "dinov2": ("Dinov2Config", "Dinov2Model", {**_VIT, "mlp_ratio": 2}),
    "convnext": (
        "ConvNextConfig",
        "ConvNextModel",
        {"num_channels": 3, "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    ),
}


def save_tokenizer(folder: Path, pad: int = 0, has_pad: bool = True) -> int:
    """Write a tokenizer of a few words; return the number of its entries."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = [*WORDS]
    words.insert(pad, "[PAD]")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    special = {"unk_token": "[UNK]"} | ({"pad_token": "[PAD]"} if has_pad else {"eos_token": "[PAD]"})
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return len(words)


def save_text_encoder(folder: Path, kind: str) -> Path:
    """Write a tiny text encoder of a kind in `TEXT`, with its tokenizer."""
    pad = 1 if kind == "roberta" else 0
    entries = save_tokenizer(folder, pad, has_pad=kind != "gpt2")
    sizes = {"vocab_size": entries, "pad_token_id": pad}
    if kind == "gpt2":
        sizes = {"vocab_size": entries, "eos_token_id": 0, "bos_token_id": 0}
    if kind == "modernbert":
        sizes |= {"cls_token_id": 0, "sep_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    return _save(folder, TEXT[kind], sizes)


def save_image_encoder(folder: Path, kind: str) -> Path:
    """Write a tiny image encoder of a kind in `IMAGES`."""
    return _save(folder, IMAGES[kind], {})


def _save(folder: Path, about: tuple[str, str, dict[str, Any]], more: dict[str, Any]) -> Path:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config: Callable[..., Any] = getattr(transformers, about[0])
    network: Callable[..., Any] = getattr(transformers, about[1])
    torch.manual_seed(0)
    network(config(**about[2], **more)).save_pretrained(folder)
    return folder
