"""Scripts that are written without blanks between words."""

from __future__ import annotations

import re

NO_BLANKS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese, as the inside of a character class. Korean has blanks."""

_HAS_NO_BLANKS = re.compile(f"[{NO_BLANKS}]")


def has_no_blanks(text: str) -> bool:
    """Return whether a text has characters of a script without blanks."""
    return _HAS_NO_BLANKS.search(text) is not None
