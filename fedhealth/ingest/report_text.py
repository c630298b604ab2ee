"""Clean reports: select sections, remove words that reveal the label, de-identify.

De-identification uses patterns and the names in the table. No maintained library does it offline without a language
model of its own; the ingest report counts texts that may still contain a name or number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache

from fedhealth.ingest.own_deidentifier import LONGEST, deidentify_report
from fedhealth.ingest.remove_names import remove_names
from fedhealth.ingest.settings import TextSettings
from fedhealth.utils.scripts import has_no_blanks

_MARK = "_"  # replaces removed text

_IDENTIFYING = [
    re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,4}"),  # mail
    re.compile(r"\b(?:https?://|www\.)\S{1,300}", re.IGNORECASE),
    re.compile(r"\b\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b"),  # dates
    re.compile(
        r"\b\d{1,2}\.?\s(?:jan|feb|m[aä]r|apr|ma[yi]|jun|jul|aug|sep|o[ck]t|nov|de[cz])\w{0,8}\.?,?\s\d{2,4}\b",
        re.IGNORECASE,
    ),
    re.compile(
        r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\w{0,6}\.?\s\d{1,2}(?:st|nd|rd|th)?,?\s\d{4}\b",
        re.IGNORECASE,
    ),
    re.compile(r"\b\d{1,2}:\d{2}(?::\d{2})?(?:\s?[ap]m)?\b", re.IGNORECASE),  # times
    re.compile(r"\+?\d[\d\s()/-]{6,20}\d"),  # telephone
    re.compile(  # a name after a heading such as "Name:" or "signed by"
        r"\b(?:(?i:(?:vor|nach|patienten|patient['’]?s?\s)?name|signed|dictated|referr(?:ed|ing\sphysician)|radiologist"
        r"|unterzeichnet|diktiert|befunder(?:in)?)(?i:\s(?:by|von|durch))?\s?:"
        r"|(?i:(?:signed|dictated|referred)\sby|(?:unterzeichnet|diktiert)\s(?:von|durch)))[ \t]{0,3}"
        r"(?:(?:Dr|Prof|PD|med)\b\.?\s){0,3}[A-ZÄÖÜ][\w'-]{0,40}(?:,?[ \t][A-ZÄÖÜ][\w'-]{0,40}){0,2}"
    ),
    re.compile(  # streets and towns
        r"\b[A-ZÄÖÜ][\w-]{2,30}(?:straße|strasse|str\.|weg|platz|allee|gasse)\s\d{1,4}[a-z]?\b"
        r"|\b\d{1,5}\s(?:[A-Z][a-z]{1,20}\s){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Drive|Boulevard|Blvd)\b"
        r"|\b\d{5}\s[A-ZÄÖÜ][a-zäöüß]{2,30}\b"
    ),
    re.compile(r"\b(?=\w{0,19}\d\w{0,19}\d\w{0,19}\d\w{0,19}\d\w{0,19}\d)\w{6,40}\b"),  # record numbers
    re.compile(
        r"\b(?:Dr|Prof|Mr|Mrs|Ms|Herr|Frau|Herrn|PD|Priv\.-Doz)\b\.?(?:\s(?:med|Dr|Prof)\b\.?){0,3}"
        r"\s[A-ZÄÖÜ][\w'-]{1,40}(?:\s[A-ZÄÖÜ][\w'-]{1,40})?"
    ),
]
_SUSPECT = re.compile(
    r"\b(?:patient|name|signed|dictated|referr\w{0,4}|born|geboren|unterzeichnet)\b[:\s]{1,3}[A-ZÄÖÜ][a-zäöüß]{2,30}\b"
    r"|\b\d{5,}\b"
)


def clean_report(report: str, text: TextSettings, names: Iterable[str] = ()) -> str:
    """Return the cleaned report.

    Args:
        report: the original text.
        text: the hospital's settings.
        names: of people, to be removed.

    """
    people = tuple(names)
    kept = _select_sections(unicodedata.normalize("NFC", report[:LONGEST]), text)
    for pattern in _compile_removed_words(text.remove):
        kept = pattern.sub(" ", kept)
    if text.deidentifier and kept:
        kept = deidentify_report(kept, text.deidentifier, people)
    if text.deidentify:
        kept = _remove_identifiers(kept, people)
    return re.sub(r"[ \t]{2,}", " ", kept).strip()


def still_identifies(report: str, names: Iterable[str]) -> bool:
    """Return whether the patterns, or the removal of names, would remove something of a cleaned report."""
    return _remove_identifiers(report, tuple(names)) != report


def _remove_identifiers(report: str, names: tuple[str, ...]) -> str:
    for pattern in _IDENTIFYING:
        report = pattern.sub(_MARK, report)
    return remove_names(report, names, _MARK)


def may_identify_patient(text: str) -> bool:
    """Return whether a text may still contain a name or an identifying number."""
    return bool(_SUSPECT.search(text[:LONGEST]))


def _select_sections(report: str, text: TextSettings) -> str:
    """Return the selected sections, or the whole report if it has none of the headings."""
    if not text.sections:
        return report
    headings, names = _compile_headings(tuple((name, tuple(words)) for name, words in text.headings.items()))
    found = list(headings.finditer(report))
    if not found:
        return report
    parts = []
    for place, heading in enumerate(found):
        end = found[place + 1].start() if place + 1 < len(found) else len(report)
        if names[heading[1].lower()] in text.sections:
            parts.append(report[heading.end() : end].strip())
    return "\n".join(part for part in parts if part)


@lru_cache(maxsize=8)
def _compile_headings(known: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[re.Pattern[str], Mapping[str, str]]:
    """Compile a pattern of all headings (at the start of a line or sentence, with a colon, or alone on a line)."""
    names = {word.lower(): name for name, words in known for word in words}
    words = "|".join(re.escape(word) for word in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?:^|(?<=[.\n]))[ \t]{{0,8}}({words})(?:[ \t]{{0,3}}:|[ \t]{{0,3}}$)", re.I | re.M), names


@lru_cache(maxsize=8)
def _compile_removed_words(words: tuple[str, ...]) -> list[re.Pattern[str]]:
    """Compile patterns of the words to remove; a trailing `*` matches any ending."""
    stems = [word for word in words if word.strip("*")]
    patterns = [_make_word_pattern(unicodedata.normalize("NFC", word)) for word in stems]
    return [re.compile("|".join(patterns), re.IGNORECASE)] if patterns else []


def _make_word_pattern(word: str) -> str:
    stem = re.escape(word.rstrip("*"))
    if has_no_blanks(word):
        return stem
    return r"\b" + stem + (r"\w*" if word.endswith("*") else r"\b")
