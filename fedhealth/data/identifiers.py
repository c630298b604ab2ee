"""Compare identifiers that the header and tables spell differently, by rules that the hospital declares.

An identifier is stored as two values. Its code is a digest of its plainest spelling (all rules applied). Its shape is
its spelling with every letter replaced by A or a, and every digit by 9, except leading zeros and a decimal `.0`. Two
identifiers are equal under some rules if their codes are equal and the rules make their shapes equal. So a rule may be
declared without reading a file again, and a near miss can be shown without showing the identifier.

Anyone who knows an identifier can compute its code: codes keep names and numbers out of files, they do not anonymise.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from fedhealth.errors import DataError

_EXCEL_TEXT = re.compile(r'="(.*)"', re.DOTALL)
_SCIENTIFIC = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d{2}")
_INVISIBLE = dict.fromkeys(map(ord, "\0\u200b\u200c\u200d\u2060\ufeff"))
LARGEST_FLOAT = 2**53
"""From here on a floating-point number cannot hold every whole number, so identifiers stored as such lost digits."""

RULES: Mapping[str, Callable[[str], str]] = {
    "decimal": lambda text: re.sub(r"^([^\W_]+)\.0+$", r"\1", text),
    "blanks": lambda text: "".join(text.split()),
    "separators": lambda text: re.sub(r"(?<=\w)[-/._](?=\w)", "", text),
    "zeros": lambda text: re.sub(r"^([^\W\d_]*[-/._ ]?)0+(?=\w)", r"\1", text),
    "case": str.casefold,
}
"""What may be declared not to matter: `.0` at the end, blanks, separators, leading zeros, upper and lower case. Rules
are applied in this order."""

LOOSE_KEYS = ("patient", "accession")
"""The keys to which rules apply; UIDs and file names are compared as they are."""


class Identifier(NamedTuple):
    """An identifier without its value: empty code = none."""

    code: str
    shape: str


def clean_identifier(value: object) -> str:
    """Return an identifier without what never matters: blanks around it, invisible characters, Excel's `="..."`."""
    text = unicodedata.normalize("NFC", str(value if value is not None else "")).translate(_INVISIBLE).strip()
    quoted = _EXCEL_TEXT.fullmatch(text)
    return quoted[1].strip() if quoted else text


def make_identifier(kind: str, value: object) -> Identifier:
    """Return the code and shape of an identifier.

    Args:
        kind: one of the keys by which tables are joined, or another use.
        value: as in the header or the table.

    """
    text = clean_identifier(value)
    if not text:
        return Identifier("", "")
    if kind not in LOOSE_KEYS:
        return Identifier(_hash_text(kind, text), "")
    return Identifier(_hash_text(kind, _apply_rules(text, RULES) or text), _mask_text(text))


def make_code(identifier: Identifier, rules: Sequence[str] = ()) -> str:
    """Return the code by which identifiers are equal under the declared rules; empty for none."""
    if not identifier.shape:
        return identifier.code
    return _hash_text(identifier.code, _apply_rules(identifier.shape, rules))


def hash_identifier(kind: str, value: object, rules: Sequence[str] = ()) -> str:
    """Return the code of an identifier under the declared rules; empty for an empty one."""
    return make_code(make_identifier(kind, value), rules)


def find_joining_rules(one: str, other: str, declared: Sequence[str]) -> tuple[str, ...]:
    """Return the fewest further rules under which two shapes with the same code are equal; empty if none do."""
    further = [name for name in RULES if name not in declared]
    for count in range(1, len(further) + 1):
        for names in combinations(further, count):
            if _apply_rules(one, [*declared, *names]) == _apply_rules(other, [*declared, *names]):
                return names
    return ()


def check_lost_digits(where: str, cells: Iterable[str]) -> None:
    """Refuse identifiers in scientific notation.

    Raises:
        DataError: a spreadsheet has rounded them.

    """
    if rounded := sum(_SCIENTIFIC.fullmatch(clean_identifier(cell)) is not None for cell in cells):
        raise DataError(
            f"{where}: {rounded} identifier(s) are numbers in scientific notation, such as 1.23E+15: a spreadsheet has "
            "rounded them.",
            "Export the column again as text.",
        )


def _apply_rules(text: str, rules: Iterable[str]) -> str:
    names = set(rules)
    for name, rule in RULES.items():
        text = rule(text) if name in names else text
    return text


def _mask_text(text: str) -> str:
    """Return the shape of an identifier."""
    kept = re.match(r"[^\W\d_]*[-/._ ]?0*(?=\w)", text)
    start = kept.end() if kept else 0
    end = len(text) - len(tail[1]) if (tail := re.fullmatch(r"[^\W_]+(\.0+)", text)) else len(text)
    return "".join(
        character if (start > place and character == "0") or place >= end else _mask_character(character)
        for place, character in enumerate(text)
    )


def _mask_character(character: str) -> str:
    if character.isalpha():
        return "A" if character.isupper() else "a"
    return "9" if character.isdigit() else character


def _hash_text(*parts: str) -> str:
    text = "|".join(("fedhealth", *parts))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]
