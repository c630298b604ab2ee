"""Words of a proposal: what a column looks like, and names as YAML reads them back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from fedhealth.data.column_profile import ColumnGuess, ColumnProfile

_PLAIN = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)
_YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_SHOWN_LEVELS = 6


def quote_word(word: str) -> str:
    """Return a word as YAML reads it back."""
    is_plain = _PLAIN.fullmatch(word) and word.casefold() not in _YAML_WORDS
    return word if is_plain else json.dumps(word, ensure_ascii=False)


def format_mapping(content: Mapping[str, str]) -> str:
    """Return a mapping of words in one line."""
    return "{" + ", ".join(f"{quote_word(name)}: {quote_word(value)}" for name, value in content.items()) + "}"


def describe_column(profile: ColumnProfile) -> str:
    """Return what a column looks like, without any value that few rows have."""
    parts = [f"{profile.guess.value}, {profile.filled} of {profile.rows} filled, {profile.distinct} different"]
    if profile.guess is ColumnGuess.words and profile.levels:
        more = ", ..." if profile.rare or len(profile.levels) > _SHOWN_LEVELS else ""
        parts.append(f"such as {', '.join(profile.levels[:_SHOWN_LEVELS])}{more}")
    if profile.units:
        parts.append(f"units {', '.join(profile.units)}")
    return "; ".join([*parts, *(f"CHECK: {warning}" for warning in profile.warnings)]).replace("\n", " ")
