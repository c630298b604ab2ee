"""Load a pretrained Hugging Face text encoder with its tokenizer: weights from safetensors only, and no code.

Files that a hospital loads must not be able to run code. Of a model with a decoder (T5) only the encoder is loaded; a
decoder alone (GPT-2) is an encoder whose tokens look back only. Whatever cannot work is refused with its reason.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING
from transformers.utils import logging as hf_logging

from fedhealth.errors import ModelError
from fedhealth.models.weights import find_weights
from fedhealth.utils.fault_text import get_first_line

_WHERE = "model.text.pretrained"


def load_text_encoder(name: str) -> tuple[Any, Any]:
    """Return the network, in float32 and without its unused pooler, and its tokenizer, which pads on the right.

    Args:
        name: a folder, by path or by name in the folder of weights, or a hub id.

    Raises:
        ModelError: it cannot be loaded, lacks weights or a tokenizer, or is no text encoder.

    """
    hf_logging.disable_progress_bar()  # the run shows its own
    name = str(folder) if (folder := find_weights(name)).is_dir() else _check_hub_id(name, folder)
    try:
        network, loaded = _choose_loader(name).from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, padding_side="right")
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as fault:
        first = get_first_line(fault)
        raise ModelError(
            f"{_WHERE}: cannot load {name!r} ({first}).",
            "Give a folder with config, tokenizer and safetensors weights, or a hub id this machine can reach.",
        ) from fault
    _check_network(name, network, loaded["missing_keys"])
    _check_tokenizer(name, tokenizer)
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # unused: it would be shared and get noise for nothing
    network.config.use_cache = False  # of a decoder's keys and values
    return network, tokenizer


def _check_hub_id(name: str, folder: Path) -> str:
    """Return the name of an encoder on the hub, with its organisation, or of one that was downloaded before.

    Raises:
        ModelError: it is neither; the network is not asked for a folder that does not exist.

    """
    is_path = folder.parent.is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None
    if is_path and not (
        re.fullmatch(r"[\w.-]+", name) and isinstance(try_to_load_from_cache(name, "config.json"), str)
    ):
        raise ModelError(
            f"{_WHERE}: there is no folder {folder}.",
            "Give a folder with config, tokenizer and safetensors weights, or a hub id such as "
            "google-bert/bert-base-uncased.",
        )
    return name


def _choose_loader(name: str) -> Any:
    """Return the class that loads the encoder alone, where a model has more parts than that."""
    kind = type(AutoConfig.from_pretrained(name, trust_remote_code=False))
    encoder = MODEL_FOR_TEXT_ENCODING_MAPPING.get(kind, None)
    return AutoModelForTextEncoding if encoder not in (None, MODEL_MAPPING.get(kind, None)) else AutoModel


def _check_network(name: str, network: nn.Module, missing: list[str]) -> None:
    config: Any = network.config
    if getattr(network, "main_input_name", "input_ids") != "input_ids":
        raise ModelError(
            f"{_WHERE}: {name!r} does not read text ({type(network).__name__}).", "Use model/image=pretrained for it."
        )
    if config.is_encoder_decoder:
        raise ModelError(
            f"{_WHERE}: {name!r} is an encoder with a decoder ({type(network).__name__}), and its encoder cannot be "
            "loaded alone.",
            "Use an encoder such as BERT, RoBERTa or T5.",
        )
    if absent := sorted(key for key in missing if not key.startswith("pooler.")):
        raise ModelError(
            f"{_WHERE}: {name!r} lacks {len(absent)} of the encoder's weights, such as {absent[0]}.",
            "Save the whole encoder with save_pretrained.",
        )


def _check_tokenizer(name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that knows no word: every text would be the same row of unknown tokens.

    A decoder's tokenizer has no padding token: its end token takes the place, which no text of one sequence contains.
    """
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    if not words:
        raise ModelError(
            f"{_WHERE}: {name!r} has no tokenizer: every word would be unknown.",
            "Put the tokenizer's files beside the weights (tokenizer.save_pretrained), such as tokenizer.json.",
        )
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{_WHERE}: the tokenizer of {name!r} has neither a padding nor an end token.", "Use an encoder model."
        )
