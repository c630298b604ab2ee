"""Remove people's names from a report, however they are spelt: accents, umlauts written as two letters, genitives."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from fedhealth.utils.scripts import has_no_blanks

_PARTS = re.compile(r"[\s,^;.]+")
_PAIRS = (("ae", "a"), ("oe", "o"), ("ue", "u"), ("ss", "ß"))
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ø": "oe", "å": "aa"})
_ENDINGS = r"(?:['’]?s|es|['’])?"  # genitives: Müllers, Klaus', Peter's


def remove_names(report: str, names: Iterable[str], mark: str) -> str:
    """Return the report with a mark for each part of a name.

    Args:
        report: in Unicode's composed form (NFC).
        names: of people, in any form.
        mark: replaces a name.

    """
    spellings = {
        each for name in names for part in _PARTS.split(name) if len(part) > 1 for each in _list_spellings(part)
    }
    if not spellings:
        return report
    plain = "".join(map(_strip_accent, report))  # as long as the report: a match has the same place in both
    places = [match.span() for match in _compile_names(spellings).finditer(plain)]
    kept, end = [], 0
    for start, stop in places:
        kept += [report[end:start], mark]
        end = stop
    return "".join([*kept, report[end:]])


def _compile_names(spellings: Iterable[str]) -> re.Pattern[str]:
    ordered = sorted(spellings, key=lambda each: (-len(each), each))
    spaced = "|".join(re.escape(each) for each in ordered if not has_no_blanks(each))
    joined = [re.escape(each) for each in ordered if has_no_blanks(each)]
    parts = [rf"(?<!\w)(?:{spaced}){_ENDINGS}(?!\w)"] if spaced else []
    return re.compile("|".join(parts + joined), re.IGNORECASE)


def _list_spellings(part: str) -> set[str]:
    """Return a name's spellings without accents."""
    name = unicodedata.normalize("NFC", part).lower()
    plain = "".join(map(_strip_accent, name))
    found = {plain, "".join(map(_strip_accent, name.translate(_UMLAUTS)))}
    for pair, letter in _PAIRS:
        found |= {each.replace(pair, letter) for each in found}
    return found


def _strip_accent(character: str) -> str:
    """Return the letter without its accent; always one character."""
    if character.isascii():
        return character
    base = unicodedata.normalize("NFD", character)[0]
    return {"ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}.get(base, base)
