"""Texts that other people wrote: whether a person who reads them sees every character.

`str.isprintable` accepts letters and marks that show nothing. They are the rest of the Unicode property
Default_Ignorable_Code_Point (Unicode Standard Annex 44) and three characters whose glyph is blank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_INVISIBLE = (
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),  # Khmer inherent vowels
    (0x180B, 0x180F),  # Mongolian variation selectors
    (0x2800, 0x2800),  # blank Braille pattern
    (0x3164, 0x3164),  # Hangul filler
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFFA0, 0xFFA0),  # halfwidth Hangul filler
    (0xFFFC, 0xFFFC),  # object replacement
    (0x1D159, 0x1D159),  # musical null notehead
    (0xE0000, 0xE0FFF),  # tags, further variation selectors
)


def is_visible(character: str) -> bool:
    """Return whether a character shows something, or is a plain space."""
    code = ord(character)
    return character.isprintable() and not any(first <= code <= last for first, last in _INVISIBLE)


def escape_invisible(text: str) -> str:
    """Return a text for a terminal: characters that show nothing or control it appear as their codes."""
    return "".join(each if is_visible(each) or each in "\n\t" else f"\\u{ord(each):04x}" for each in text)


def is_readable(text: str) -> bool:
    """Return whether a person sees every character of a text."""
    return all(map(is_visible, text))


def is_paragraph(text: str, longest: int) -> bool:
    """Return whether a text is one readable paragraph with something in it, without gaps that look like new lines."""
    has_words = any(map(str.isalnum, text))
    return has_words and len(text) <= longest and is_readable(text) and " ".join(text.split()) == text


def iter_texts(value: object) -> Iterator[str]:
    """Yield every text in a value, names of keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for pair in value.items() for part in pair for text in iter_texts(part))
    elif isinstance(value, list | tuple):
        yield from (text for part in value for text in iter_texts(part))
