"""The default for texts: a frozen pretrained encoder if one is named, and hashed n-grams otherwise."""

from __future__ import annotations

from fedhealth.models.encoders.base import TrainablePart
from fedhealth.models.encoders.ngrams import NgramEncoder
from fedhealth.models.encoders.text import TextEncoder


class DefaultTextEncoder:
    """Make the encoder that a few hundred notes support; a trained one needs far more of them.

    Args:
        pretrained: a Hugging Face encoder, by folder or hub id; null for hashed n-grams.
        train: which part of a pretrained encoder is trained, see `set_trainable`.
        max_length: maximum number of tokens of a text for a pretrained encoder.
        width: number of features of hashed n-grams.

    """

    may_have_own_adapters = False

    def __new__(  # type: ignore[misc]
        cls, pretrained: str | None = None, train: TrainablePart = "none", max_length: int = 128, width: int = 512
    ) -> TextEncoder | NgramEncoder:
        """Return one of the two encoders."""
        return TextEncoder(pretrained, train, max_length) if pretrained else NgramEncoder(width)
