"""Text encoders: any Hugging Face encoder by path or hub id, or a new small BERT over hashed words."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from fedhealth.errors import ModelError
from fedhealth.models.encoders.base import TrainablePart, set_trainable
from fedhealth.models.encoders.pretrained_text import load_text_encoder
from fedhealth.models.encoders.words import split_words
from fedhealth.models.lora import LoraSettings


class TextEncoder(nn.Module):
    """Token ids [B, L], padded with `pad` -> features [B, width], the mean over tokens.

    Args:
        pretrained: a Hugging Face encoder, by folder or hub id; null builds a BERT of the sizes below.
        train: which part is trained, see `set_trainable`.
        max_length: maximum number of tokens of a text.
        hidden: width of the small BERT.
        layers: of the small BERT; 0 averages word embeddings.
        heads: attention heads of the small BERT.
        buckets: vocabulary size of the small BERT: words are hashed, so sites need no common word list.
        dropout: of the small BERT.
        lora: adapters to train in a frozen encoder (`train: none`); null for none.

    """

    may_have_own_adapters = False  # beside those of the `lora` setting

    def __init__(
        self,
        pretrained: str | None = None,
        train: TrainablePart = "all",
        max_length: int = 64,
        hidden: int = 64,
        layers: int = 1,
        heads: int = 2,
        buckets: int = 4096,
        dropout: float = 0.1,
        lora: LoraSettings | None = None,
    ) -> None:
        super().__init__()
        if train == "none" and not pretrained and not lora:
            raise ModelError(
                "model.text: a frozen encoder without weights learns nothing.",
                "Give model.text.pretrained=... or model.text.train=all.",
            )
        self.max_length, self.buckets = max_length, buckets
        self.tokenizer: Any = None
        self.network: Any
        if pretrained:
            self.network, self.tokenizer = load_text_encoder(pretrained)
        else:
            self.network = _build_small_bert(hidden, layers, heads, buckets, max_length, dropout)
        self.width = int(self.network.config.hidden_size)
        self.pad = int(self.tokenizer.pad_token_id) if self.tokenizer is not None else 0
        self._start, self._entries = _get_first_position(self.network), _count_entries(self.network)
        places = getattr(self.network.config, "max_position_embeddings", None)
        if places is not None and places > 0 and max_length + self._start > places:
            raise ModelError(
                f"model.text.max_length={max_length}: this encoder reads {places - self._start} tokens at most.",
                "Lower model.text.max_length.",
            )
        self._accepts = set(inspect.signature(self.network.forward).parameters)
        set_trainable(self.network, train, "text", lora)

    def tokenize(self, texts: list[str]) -> np.ndarray:
        """Return token ids int64 [len(texts), L <= max_length], padded with `pad`."""
        if self.tokenizer is None:
            return hash_words(texts, self.buckets, self.max_length)
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_length, padding=True, return_tensors="np")
        ids = np.asarray(encoded["input_ids"], np.int64)
        # a word that the encoder has no embedding for would be an error that depends on the site's texts
        return np.where(ids < self._entries, ids, self.pad)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode a batch of token ids."""
        mask = ids != self.pad
        first = torch.arange(ids.shape[1], device=ids.device) == 0
        mask = mask | first  # a row without text attends to one token: an empty softmax would give NaN
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        if "position_ids" in self._accepts:
            # one copy per row: a broadcast (1, L) has no per-sample gradient
            inputs["position_ids"] = (torch.arange(ids.shape[1], device=ids.device) + self._start).expand_as(ids)
        if "token_type_ids" in self._accepts:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        hidden: Tensor = self.network(**inputs).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(dim=1) / weight.sum(dim=1)

    def extra_repr(self) -> str:
        """Return the settings that change the features, for the fingerprint of the cache."""
        return f"max_length={self.max_length}"


def hash_words(texts: list[str], buckets: int, max_length: int) -> np.ndarray:
    """Return ids int64 [len(texts), L] in 1..buckets-1 (0 = padding); a word has the same id at every site."""
    words = [split_words(text)[:max_length] for text in texts]
    ids = np.zeros((len(texts), max(1, max(map(len, words), default=1))), np.int64)
    codes = {word: _hash_word(word, buckets) for word in {word for row in words for word in row}}
    for row, tokens in enumerate(words):
        ids[row, : len(tokens)] = [codes[word] for word in tokens]
    return ids


def _hash_word(word: str, buckets: int) -> int:
    return 1 + int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") % (buckets - 1)


def _build_small_bert(hidden: int, layers: int, heads: int, buckets: int, max_length: int, dropout: float) -> Any:
    if hidden % heads:
        raise ModelError(f"model.text: hidden={hidden} is not a multiple of heads={heads}.", "Change one of them.")
    config = BertConfig(
        vocab_size=buckets,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * hidden,
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertModel(config, add_pooling_layer=False)


def _get_first_position(network: nn.Module) -> int:
    """Return the position of the first token: 0, or the one after the padding position (RoBERTa and similar models)."""
    tables = [module for name, module in network.named_modules() if name.endswith("position_embeddings")]
    padding = getattr(tables[0], "padding_idx", None) if tables else None
    return 0 if padding is None else int(padding) + 1


def _count_entries(network: Any) -> int:
    """Return the number of token embeddings."""
    return int(network.get_input_embeddings().num_embeddings)
