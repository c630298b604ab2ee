"""Detect the encoding of a hospital's text and decode it: UTF-8, UTF-16, Windows Western, or by letter frequencies."""

from __future__ import annotations

from pathlib import Path

from charset_normalizer import from_bytes

from fedhealth.errors import DataError

EXPORT_ADVICE = "Export it as UTF-8 CSV or Parquet."
REPLACEMENT = "\ufffd"
"""Stands for bytes that are no character; a text with it is damaged."""

_GUESSED = 1 << 20  # bytes from which an encoding is guessed
_MOST_ACCENTS = 0.2  # of all letters in a Western text; other scripts decoded as Western have only accented letters
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_MOST_ZEROS, _FEW_ZEROS = 0.6, 0.1  # shares of the high and of the low bytes of UTF-16 in a Western language
_WESTERN = "cp1252"


def decode_text(content: bytes, path: Path) -> tuple[str, str]:
    """Return the text and the name of its encoding.

    Bytes that are no character become U+FFFD; this happens in Windows Western only.

    Raises:
        DataError: the encoding cannot be detected.

    """
    encoding = _detect_encoding(content, path)
    if encoding == _WESTERN:
        return _decode_western_lines(content)
    try:
        return content.decode(encoding), encoding
    except UnicodeDecodeError:
        raise DataError(f"{path}: it is not valid {encoding}.", EXPORT_ADVICE) from None


def _detect_encoding(content: bytes, path: Path) -> str:
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return name
    if wide := _find_utf16(content[:_GUESSED]):
        return wide
    if _try_decode(content, "utf-8") is not None:
        return "utf-8"
    if _is_western(content.decode(_WESTERN, "replace")):
        return _WESTERN
    guess = from_bytes(content[:_GUESSED]).best()
    if guess is None or _try_decode(content, guess.encoding) is None:
        raise DataError(f"{path}: its encoding cannot be detected.", EXPORT_ADVICE)
    return guess.encoding


def _find_utf16(content: bytes) -> str:
    """Return the name of UTF-16 without a byte order mark; empty if it is another encoding."""
    half = max(1, len(content) // 2)
    even, odd = (content[start::2].count(0) / half for start in (0, 1))
    if odd > _MOST_ZEROS and even < _FEW_ZEROS:
        return "utf-16-le"
    return "utf-16-be" if even > _MOST_ZEROS and odd < _FEW_ZEROS else ""


def _decode_western_lines(content: bytes) -> tuple[str, str]:
    """Decode line by line: concatenated exports, or one invalid character, make a file that is partly UTF-8."""
    lines, mixed = [], False
    for line in content.splitlines(keepends=True):
        text = _try_decode(line, "utf-8")
        mixed |= text is not None and not line.isascii()
        lines.append(line.decode(_WESTERN, "replace") if text is None else text)
    return "".join(lines), f"{_WESTERN} and utf-8" if mixed else _WESTERN


def _try_decode(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_western(text: str) -> bool:
    """Return whether a text decoded as Windows Western is plausible: few accented letters and few symbols."""
    further = [letter for letter in text if letter > "\x7f"]
    letters = sum(map(str.isalpha, text))
    accents = sum(map(str.isalpha, further))
    return accents <= _MOST_ACCENTS * letters and len(further) - accents <= max(accents, _MOST_ACCENTS * letters)
