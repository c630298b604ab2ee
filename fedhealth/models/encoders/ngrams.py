"""Hashed n-grams: features of a text without any weights, for a few hundred notes that support no trained encoder.

Feature hashing: Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009; several signed
places for each n-gram, so that no place belongs to a single word: Dasgupta, Kumar and Sarlos, "A sparse
Johnson-Lindenstrauss transform", STOC 2010. The places follow from the words alone, so sites need no word list.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
from torch import Tensor, nn

from fedhealth.errors import ModelError
from fedhealth.models.encoders.words import split_words

_PLACES = 4  # of each n-gram


class NgramEncoder(nn.Module):
    """Hashed counts [B, width] of words and word sequences -> the same values, as features; nothing is trained.

    Args:
        width: number of features.
        longest: n of the longest n-gram.
        max_length: maximum number of words of a text.

    """

    may_have_own_adapters = False
    pad = 0

    def __init__(self, width: int = 512, longest: int = 2, max_length: int = 256) -> None:
        super().__init__()
        if width < _PLACES or longest < 1 or max_length < 1:
            raise ModelError(
                f"model.text: width={width}, longest={longest} or max_length={max_length} is too small.",
                f"Use at least {_PLACES}, 1 and 1.",
            )
        self.width, self.longest, self.max_length = width, longest, max_length

    def tokenize(self, texts: list[str]) -> np.ndarray:
        """Return the features float32 [len(texts), width]; the squares of a text's features add up to about width."""
        found = np.zeros((len(texts), self.width), np.float32)
        for row, text in enumerate(texts):
            words = split_words(text)[: self.max_length]
            for gram, count in _count_ngrams(words, self.longest).items():
                places, signs = _hash_ngram(gram, self.width)
                np.add.at(found[row], places, signs * np.float32(np.sqrt(count)))
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        scaled: np.ndarray = found * (np.sqrt(self.width) / np.maximum(norms, 1e-6)).astype(np.float32)
        return scaled.astype(np.float32)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features."""
        return features

    def extra_repr(self) -> str:
        """Return the settings that change the features, for the fingerprint of the cache."""
        return f"width={self.width}, longest={self.longest}, max_length={self.max_length}"


def _count_ngrams(words: list[str], longest: int) -> Counter[str]:
    return Counter(
        " ".join(words[start : start + n]) for n in range(1, longest + 1) for start in range(len(words) - n + 1)
    )


def _hash_ngram(gram: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of an n-gram, and +1 or -1 for each."""
    digest = hashlib.blake2b(gram.encode(), digest_size=8 * _PLACES).digest()
    numbers = np.frombuffer(digest, "<u8")
    signs = np.where(numbers >> np.uint64(63), -1, 1).astype(np.float32)
    return (numbers % np.uint64(width)).astype(np.int64), signs
