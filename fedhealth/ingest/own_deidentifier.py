"""Use a hospital's own function that de-identifies reports, and screen it like any code of others.

It is a function of an installed package, named by its entry point. Before any file is read it has to pass a screening
on sample reports, in a worker: it returns a text, the same each time, keeps what is harmless, and, where our patterns
are off, leaves nothing of what identifies the sample's patient. On real reports a failure stops the table, and no
message repeats what an exception says, because it may quote the report.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from fedhealth.data.decode_text import REPLACEMENT
from fedhealth.errors import ConfigError

Deidentifier = Callable[[str, tuple[str, ...]], str]
"""A hospital's own function: (report, names of people) -> report. It runs in a worker, before our patterns."""
DEIDENTIFIERS = "fedhealth.deidentifiers"
"""The group of entry points under which packages offer such functions."""
LONGEST = 100_000  # characters of a report that are read
_FINDING = "effusion"
_SAMPLE_NAMES = ("Quillfeather", "Ottilie")
_SAMPLE_SECRETS = (*_SAMPLE_NAMES, "14.03.1957", "0551 4479203", "MRN88412097")
_SAMPLE = (
    "Patient: Quillfeather, Ottilie, born 14.03.1957, MRN88412097, phone 0551 4479203. "
    "There is a small effusion on the left side. No fracture."
)


def deidentify_report(report: str, name: str, people: tuple[str, ...]) -> str:
    """Return what the hospital's function makes of a report, in Unicode's composed form.

    Raises:
        ConfigError: it fails, or returns something else than an undamaged text.

    """
    try:
        found = load_deidentifier(name)(report, people)
    except (MemoryError, ConfigError):
        raise
    except Exception as fault:
        raise _build_error(name, f"fails on a report ({type(fault).__name__})") from None
    if not isinstance(found, str):
        raise _build_error(name, f"returned {type(found).__name__}, not a text")
    if REPLACEMENT in found or "\0" in found or (not found.isascii() and _has_surrogate(found)):
        raise _build_error(name, "returned a text with damaged characters")
    return unicodedata.normalize("NFC", found[:LONGEST])


def screen_deidentifier(name: str, is_alone: bool) -> str:
    """Run the function on a sample report; return the package that it is from, with its version.

    Args:
        name: of the entry point.
        is_alone: whether our own patterns do not run after it.

    Raises:
        ConfigError: it is not installed, cannot be imported, or does not pass.

    """
    for fault in _find_faults(name, is_alone):
        raise _build_error(name, f"{fault} (screened with a sample report, no patient's)")
    package = find_entry_point(name).dist
    return f"{package.name} {package.version}" if package else "a package without a name"


def _find_faults(name: str, is_alone: bool) -> Iterator[str]:
    cleaned = deidentify_report(_SAMPLE, name, _SAMPLE_NAMES)
    if deidentify_report(_SAMPLE, name, _SAMPLE_NAMES) != cleaned:
        yield "returns another text when it is called again"
    if _FINDING not in cleaned:
        yield "removes findings that identify nobody"
    if is_alone and (left := [secret for secret in _SAMPLE_SECRETS if secret in cleaned]):
        yield f"leaves {', '.join(left)}, and text.deidentify is off"


def find_entry_point(name: str) -> EntryPoint:
    """Return the entry point of a function without importing it.

    Raises:
        ConfigError: no installed package has it, or several have.

    """
    known = [*entry_points(group=DEIDENTIFIERS)]
    found = [each for each in known if each.name == name]
    if len(found) == 1:
        return found[0]
    how_many = "several installed packages have" if found else "no installed package has"
    installed = ", ".join(sorted({each.name for each in known})) or "none"
    raise ConfigError(
        f"text.deidentifier: {how_many} an entry point {name!r} in the group {DEIDENTIFIERS}.",
        f"Install the package, or correct the name; installed: {installed}.",
    )


@lru_cache(maxsize=8)
def load_deidentifier(name: str) -> Deidentifier:
    """Import the hospital's own function.

    Raises:
        ConfigError: it is not installed, cannot be imported, or is no function.

    """
    point = find_entry_point(name)
    try:
        loaded: Deidentifier = point.load()
    except Exception as fault:  # a package may raise anything at its import
        raise _build_error(name, f"cannot be imported from {point.value} ({type(fault).__name__})") from None
    if not callable(loaded):
        raise _build_error(name, f"is no function: {point.value}")
    return loaded


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _build_error(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"text.deidentifier: {name!r} {what}.", "Correct the function, or leave text.deidentifier empty."
    )
