"""Strict readers for the fields of JSON objects that came from outside."""

from __future__ import annotations

import re
from typing import Any

from fedhealth.errors import TrustError

_ADVICE = "Ask the lead for a new kit."


def check_fields(fields: Any, names: set[str], what: str) -> None:
    """Check that a JSON object has exactly these keys.

    Raises:
        TrustError: it has not.

    """
    if not isinstance(fields, dict) or set(fields) != names:
        raise TrustError(f"The {what} has other fields than {', '.join(sorted(names))}.", _ADVICE)


def get_text(fields: Any, name: str, what: str) -> str:
    """Return a text field.

    Raises:
        TrustError: there is no text of that name.

    """
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str):
        raise TrustError(f"The {what} lacks {name!r}.", _ADVICE)
    return value


def get_matching_text(fields: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    """Return a text field that matches the pattern.

    Raises:
        TrustError: it does not match.

    """
    value = get_text(fields, name, "membership")
    if not pattern.fullmatch(value):
        raise TrustError(f"{value[:80]!r} is not a valid {name}.", _ADVICE)
    return value


def get_whole_number(fields: dict[str, Any], name: str) -> int:
    """Return a non-negative integer field.

    Raises:
        TrustError: it is not a non-negative integer.

    """
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise TrustError(f"{name!r} is not a whole number.", _ADVICE)
    return value


def parse_hex(value: str, size: int, what: str) -> bytes:
    """Parse lower-case hexadecimal digits of exactly `size` bytes.

    Raises:
        TrustError: anything else.

    """
    if not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value, re.ASCII):
        raise TrustError(f"A {what} is not {size} bytes in hexadecimal.", _ADVICE)
    return bytes.fromhex(value)
