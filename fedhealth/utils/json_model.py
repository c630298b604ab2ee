"""Read JSON as a frozen dataclass, validated by pydantic: strict types, no unknown key, all faults at once.

A field's form is part of its type: `Annotated[str, match_form(...)]`. What is written stays with `json.dumps` and
`fedhealth.utils.digest.encode_canonical`, so that signed bytes do not depend on a library.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from fedhealth.errors import FedhealthError, TrustError
from fedhealth.types import SITE_ID
from fedhealth.utils.plain_files import is_plain_file
from fedhealth.utils.readable_text import escape_invisible

Kind = TypeVar("Kind")

_STRICT = ConfigDict(strict=True, extra="forbid")
_LONGEST_VALUE, _MOST_FAULTS = 80, 20  # in a message
_MESSAGES = {
    "missing": "is missing",
    "unexpected_keyword_argument": "there is no such key",
    "extra_forbidden": "there is no such key",
    "dataclass_type": "expected an object",
    "dict_type": "expected an object",
}
_EXPECTED = {
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list",
}


def parse_model(
    content: bytes | str,
    kind: type[Kind],
    where: str,
    advice: str,
    error: type[FedhealthError] = TrustError,
    limit: int = 2**20,
) -> Kind:
    """Return a JSON text as `kind`.

    Args:
        content: it may come from anybody.
        kind: a dataclass of dataclasses, tuples, mappings, texts and numbers, or one of these.
        where: a file's path, or what the text is, in messages.
        advice: what to do about a fault.
        error: its class.
        limit: the most bytes.

    Raises:
        FedhealthError: of the class `error`; it lists all faults.

    """
    parse_json(content, where, advice, error, limit)
    text = content if isinstance(content, str) else content.decode()
    try:
        return validate_json(f"[{text}]", kind)
    except ValidationError as fault:
        raise error(f"{where}: {join_faults(map(explain_fault, fault.errors()))}.", advice) from fault


def read_model(
    path: Path,
    kind: type[Kind],
    advice: str,
    error: type[FedhealthError] = TrustError,
    limit: int = 2**26,
) -> Kind | None:
    """Return a JSON file as `kind`; None where there is none. See `parse_model`.

    Raises:
        FedhealthError: of the class `error`; it names the file and all faults.

    """
    if not is_plain_file(path):
        return None
    return parse_model(path.read_bytes(), kind, f"{path} is damaged", advice, error, limit)


def parse_json(
    content: bytes | str, where: str, advice: str, error: type[FedhealthError] = TrustError, limit: int = 2**20
) -> Any:
    """Return the plain values of a JSON text without duplicate keys, NaN and infinity; see `parse_model`.

    Raises:
        FedhealthError: of the class `error`.

    """
    if len(content) > limit:
        raise error(f"{where}: it is larger than {limit} bytes.", advice)
    try:
        text = content if isinstance(content, str) else content.decode()
    except UnicodeDecodeError as fault:
        raise error(f"{where}: it is not UTF-8 text.", advice) from fault
    if text.startswith("\ufeff"):
        raise error(f"{where}: it begins with a byte order mark, so an editor has changed it.", advice)
    try:
        return json.loads(
            text,
            object_pairs_hook=_reject_duplicate_keys,
            parse_constant=_parse_finite,
            parse_float=_parse_finite,
        )
    except (ValueError, RecursionError) as fault:
        raise error(f"{where}: it is not JSON.", advice) from fault


def validate_json(content: str, kind: type[Kind]) -> Kind:
    """Return the only value of a list in JSON as `kind`.

    Raises:
        ValidationError: it holds faults, to be told by `explain_fault`.

    """
    (found,) = _build_adapter(kind).validate_json(content)  # type: ignore[arg-type]  # a class can be hashed
    return found


def explain_fault(fault: ErrorDetails) -> str:
    """Return where a fault is, below the list of `validate_json`, and what it is, without a full stop."""
    key = _format_key(fault["loc"][1:]) or "the file"
    if fault["type"] in _MESSAGES:
        return f"{key}: {_MESSAGES[fault['type']]}"
    value = repr(fault["input"])
    shown = _shorten(value)
    if fault["type"] in _EXPECTED:
        return f"{key}: {shown} is not {_EXPECTED[fault['type']]}"
    return f"{key}: {shown} is not valid ({fault['msg'].removeprefix('Value error, ')})"


def join_faults(faults: Iterable[str]) -> str:
    """Return faults as one text; of very many the first ones and their number."""
    told = list(faults)
    more = [f"and {len(told) - _MOST_FAULTS} more faults"] if len(told) > _MOST_FAULTS else []
    return "; ".join([*told[:_MOST_FAULTS], *more])


def match_form(form: re.Pattern[str], expected: str) -> AfterValidator:
    """Return what makes a field a text of this form; `expected` names it in messages."""

    def check(value: str) -> str:
        if not form.fullmatch(value):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


def decode_hex(*sizes: int) -> PlainValidator:
    """Return what makes a field bytes of one of these sizes, in JSON lower-case hexadecimal digits."""
    form = re.compile("|".join(f"[0-9a-f]{{{2 * size}}}" for size in sizes), re.ASCII)
    expected = f"expected {' or '.join(str(2 * size) for size in sizes)} hexadecimal digits"

    def decode(value: object) -> bytes:
        if not isinstance(value, str) or not form.fullmatch(value):
            raise ValueError(expected)
        return bytes.fromhex(value)

    return PlainValidator(decode)


SiteName = Annotated[str, match_form(SITE_ID, "a site name: lower case letters, digits, . _ and -")]
Sha256 = Annotated[str, match_form(re.compile(r"[0-9a-f]{64}", re.ASCII), "64 hexadecimal digits")]
WholeNumber = Annotated[int, Field(ge=0, lt=2**53)]


@cache
def _build_adapter(kind: type[Kind]) -> TypeAdapter[list[Kind]]:
    """Return the validator of a list: pydantic takes a configuration for a type that holds dataclasses only.

    It takes milliseconds, and it stays: a type that is made anew at each call would be built and kept each time.
    """
    return TypeAdapter(list[kind], config=_STRICT)  # type: ignore[valid-type]


def _format_key(location: tuple[Any, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_shorten(part)}" for part in location).removeprefix(
        "."
    )


def _shorten(text: str) -> str:
    """Return the beginning of a text from outside, as a terminal can show it."""
    return escape_invisible(text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}...")


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a duplicate key")
    return found


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number
