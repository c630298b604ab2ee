"""Split a text into words, alike at every site: no word list is needed."""

from __future__ import annotations

import re

from fedhealth.utils.scripts import NO_BLANKS

_WORD = re.compile(rf"[{NO_BLANKS}]|(?:(?![{NO_BLANKS}])\w)+|[?!%+<>]")  # without blanks a character is a word


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case; a character of a script without blanks is a word."""
    return _WORD.findall(text.lower())
