"""The head of the model: the layers of the fusion that give the logits."""

from __future__ import annotations

from collections.abc import Iterable

from fedhealth.errors import ConfigError

HEAD = "fusion.head."


def is_in_head(name: str) -> bool:
    """Return whether the array belongs to the head."""
    return name.startswith(HEAD)


def exclude_head(trained: Iterable[str]) -> list[str]:
    """Return the arrays outside the head.

    Raises:
        ConfigError: the model has no trained head, or nothing but a head.

    """
    trained = list(trained)
    body = [name for name in trained if not is_in_head(name)]
    if not body or len(body) == len(trained):
        raise ConfigError(
            "A local head needs a trained head and a trained body beside it.",
            "Give the fusion a module called `head`, or use another personalization.",
        )
    return body
