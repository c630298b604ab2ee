"""What the cells of a column look like: a guess at its kind, and what a person should look at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from fedhealth.data.identifiers import clean_identifier

MOST_LEVELS = 12  # different words of a category
FEWEST_PEOPLE = 5  # a word that fewer rows have is not shown: it may be about one person
_MOST = 0.9  # share of the cells that must look alike
_LONG_WORDS, _LONG_CHARACTERS = 5, 40  # of a report
_TYPO = 100.0  # a number this many times the median may be in another unit, or a typing error
_STEP = 3.0  # a code of missing values is this many times the next number
_NUMBER = re.compile(r"[+-]?\d+(?P<rest>[.,]\d+)?(?:\s*(?P<unit>[A-Za-zµ%°][\w/%µ^.]*))?")
_DATE = re.compile(r"(?:\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4})(?:[T ].*)?")
_PERSON = re.compile(r"(?:vor|nach|familien|patienten|sur|first|last|family|given)[ _-]?name|name", re.IGNORECASE)
_CONTACT = re.compile(r"phone|telefon|mobil|e-?mail|stra(?:ss|ß)e|street|address|adresse|\bzip\b|plz", re.IGNORECASE)
_ROUNDED = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d{2}")
_CODES = ("-1", "-9", "-99", "-999", "99", "999", "9999", "99999")


class ColumnGuess(StrEnum):
    """What a column seems to hold."""

    empty = "empty"
    number = "number"
    date = "date"
    words = "words"
    report = "report"
    person = "person"
    other = "other"


@dataclass(frozen=True)
class ColumnProfile:
    """What a column looks like.

    Attributes:
        name: of the column.
        rows: number of cells.
        filled: number of cells with a value.
        distinct: number of different values.
        guess: what it seems to hold.
        decimal: how its numbers are written: `.`, `,`, `both` or empty.
        units: that follow its numbers.
        levels: its words that at least `FEWEST_PEOPLE` rows have, the most frequent first.
        rare: number of words that fewer rows have.
        codes: numbers that look like codes of missing values.
        warnings: what a person should look at.

    """

    name: str
    rows: int
    filled: int
    distinct: int
    guess: ColumnGuess
    decimal: str = ""
    units: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    rare: int = 0
    codes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def profile_column(name: str, cells: Sequence[str]) -> ColumnProfile:
    """Describe a column by its name and cells."""
    values = [text for text in map(clean_identifier, cells) if text]
    counts = Counter(values)
    guess = _guess_kind(name, values, counts)
    matches = [match for match in map(_NUMBER.fullmatch, values) if match]
    is_number = guess is ColumnGuess.number or (guess is ColumnGuess.words and len(matches) >= _MOST * len(values))
    marks = {(match["rest"] or "")[:1] for match in matches} - {""} if is_number else set()
    codes = _find_codes(counts) if is_number else ()
    shown = guess in (ColumnGuess.words, ColumnGuess.number) and len(counts) <= MOST_LEVELS
    return ColumnProfile(
        name=name,
        rows=len(cells),
        filled=len(values),
        distinct=len(counts),
        guess=guess,
        decimal="both" if len(marks) > 1 else "".join(marks),
        units=tuple(sorted({match["unit"] for match in matches if match["unit"]})) if is_number else (),
        levels=tuple(word for word, count in counts.most_common() if count >= FEWEST_PEOPLE) if shown else (),
        rare=sum(count < FEWEST_PEOPLE for count in counts.values()) if shown else 0,
        codes=codes,
        warnings=tuple(_find_warnings(name, values, counts, guess, len(marks) > 1, codes)),
    )


def _guess_kind(name: str, values: Sequence[str], counts: Counter[str]) -> ColumnGuess:
    least = _MOST * len(values)
    if not values:
        return ColumnGuess.empty
    if _PERSON.fullmatch(name.strip()):
        return ColumnGuess.person
    if sum(_DATE.fullmatch(value) is not None for value in values) >= least:
        return ColumnGuess.date
    if sum(len(value.split()) >= _LONG_WORDS or len(value) > _LONG_CHARACTERS for value in values) > least / 2:
        return ColumnGuess.report
    is_number = sum(_NUMBER.fullmatch(value) is not None for value in values) >= least
    if len(counts) <= MOST_LEVELS and (not is_number or len(counts) <= 2) and len(counts) <= len(values) / 3:
        return ColumnGuess.words
    return ColumnGuess.number if is_number else ColumnGuess.other


def _find_codes(counts: Counter[str]) -> tuple[str, ...]:
    """Return numbers that are far from all others and written as codes of missing values usually are."""
    numbers = {text: value for text in counts if (value := _to_number(text)) is not None}
    codes = [text for text in numbers if text.removesuffix(".0") in _CODES and counts[text] > 1]
    others = [value for text, value in numbers.items() if text not in codes]
    if not others:
        return ()
    low, high = min(others), max(others)
    return tuple(text for text in codes if (numbers[text] < 0 <= low) or numbers[text] >= _STEP * max(high, 1e-9))


def _find_warnings(
    name: str, values: Sequence[str], counts: Counter[str], guess: ColumnGuess, mixed: bool, codes: Sequence[str]
) -> Iterator[str]:
    if guess is ColumnGuess.empty:
        yield "it is empty"
        return
    if len(counts) == 1 and len(values) > 1:
        yield "all its values are equal"
    if guess is ColumnGuess.person or _CONTACT.search(name):
        yield "it seems to identify people; do not use it as a variable"
    if guess is ColumnGuess.date:
        yield "it holds dates, which identify people and may be later than the outcome"
    if mixed:
        yield "some numbers have a decimal comma, others a point"
    if sum(_ROUNDED.fullmatch(value) is not None for value in values):
        yield "numbers such as 1.23E+15: a spreadsheet has rounded them; export the column as text"
    if codes:
        yield f"{', '.join(codes)} may mean a missing value (missing_codes)"
    numbers = [value for text in counts.elements() if text not in codes and (value := _to_number(text)) is not None]
    if guess is ColumnGuess.number and numbers and 0 < _TYPO * median(numbers) < max(numbers):
        yield "a number is over 100 times the median: another unit, or a typing error"


def _to_number(text: str) -> float | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    end = match.start("unit") if match["unit"] else len(text)
    return float(text[:end].replace(",", "."))
