"""Decide what a text is: a report, nothing, or something that is set aside and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedhealth.data.decode_text import REPLACEMENT, decode_text
from fedhealth.data.findings import DataFinding, FindingKind
from fedhealth.errors import DataError

_NOTHING = frozenset(("nan", "none", "null", "n/a", "na", "<na>", "#n/a", "nat", "-", "--", "."))
_OTHER_FILES = (
    (b"%PDF", "a PDF"),
    (b"PK\3\4", "an Office document or an archive"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    (b"{\\rtf", "a document in RTF"),
)
_DAMAGED = "damaged"


def select_texts(texts: Sequence[str]) -> tuple[list[str], Counter[str]]:
    """Return the texts, empty where they are missing or damaged; and the counts of what is set aside."""
    kept, reasons = list[str](), Counter[str]()
    for text in map(str.strip, texts):
        if REPLACEMENT in text or "\0" in text:
            reasons[_DAMAGED] += 1
            kept.append("")
        else:
            kept.append("" if text.casefold() in _NOTHING else text)
    return kept, reasons


def read_text_file(path: Path) -> tuple[str, str]:
    """Return the text of a file, and why it is set aside (empty if it is not)."""
    return decode_report(path.read_bytes(), path)


def decode_report(content: bytes, path: Path) -> tuple[str, str]:
    """Return a report's text, and why it is set aside (empty if it is not).

    Args:
        content: of a file or an attachment.
        path: of the file.

    """
    if other := next((name for signature, name in _OTHER_FILES if content.startswith(signature)), ""):
        return "", other
    try:
        text, _ = decode_text(content, path)
    except DataError:
        return "", _DAMAGED
    return text, ""


def find_text_findings(where: str, reasons: Mapping[str, int]) -> Iterator[DataFinding]:
    """Yield what a person must know of texts that are set aside."""
    if total := sum(reasons.values()):
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        text = f"{where}: {total} text(s) are set aside and count as missing: {listed}."
        yield DataFinding(FindingKind.texts, text, True)
