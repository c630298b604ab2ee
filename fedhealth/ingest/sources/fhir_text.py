"""The text of a FHIR DiagnosticReport or DocumentReference."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

from fedhealth.data.decode_text import REPLACEMENT
from fedhealth.data.texts import decode_report
from fedhealth.ingest.sources.fhir_models import Attachment, DiagnosticReport, DocumentReference

_BREAKING = ("p", "br", "div", "tr", "li", "h1", "h2", "h3", "h4", "h5", "h6")
_HIDDEN = ("script", "style", "head")
_ELSEWHERE = "its text is on another server, or cannot be fetched"
_DAMAGED = "its text is damaged"
_HTML = ("text/html", "application/xhtml+xml")

ReadBinary = Callable[[str], bytes | None]


def extract_text(resource: DiagnosticReport | DocumentReference, read_binary: ReadBinary) -> tuple[str, str]:
    """Return the text, and why there is none (empty if there is one, or if the report has none).

    Text attachments come first, then the conclusion, then the narrative.

    Args:
        resource: the report.
        read_binary: returns an attachment by its address; None if it cannot be fetched.

    """
    if isinstance(resource, DiagnosticReport):
        forms, conclusion = resource.presented_form, resource.conclusion.strip()
    else:
        forms, conclusion = [each.attachment for each in resource.content], ""
    found = [_decode_attachment(each, read_binary) for each in forms]
    texts = list(dict.fromkeys(text for text, _ in found if text))
    reason = next((why for _, why in found if why), "")
    if not texts and conclusion:
        texts = [conclusion]
    if not texts and not reason and resource.text:
        texts = [strip_tags(resource.text.div)]
    return "\n".join(texts), "" if any(texts) else reason


def strip_tags(page: str) -> str:
    """Return the text of HTML."""
    parser = _TextParser()
    parser.feed(page)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).splitlines())
    return "\n".join(filter(None, lines))


class _TextParser(HTMLParser):
    """Collects text; elements that begin a line become line breaks."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a line, or something that is not shown."""
        self._hidden += tag in _HIDDEN
        self.parts += ["\n"] * (tag in _BREAKING)

    def handle_endtag(self, tag: str) -> None:
        """End a line, or something that is not shown."""
        self._hidden = max(0, self._hidden - (tag in _HIDDEN))
        self.parts += ["\n"] * (tag in _BREAKING)

    def handle_data(self, data: str) -> None:
        """Keep a text that is shown."""
        self.parts += [data] * (not self._hidden)


def _decode_attachment(attachment: Attachment, read_binary: ReadBinary) -> tuple[str, str]:
    kind, *options = (part.strip().lower() for part in attachment.content_type.split(";"))
    if kind and not kind.startswith("text/") and kind not in _HTML:
        return "", f"it is {kind if kind.isascii() and kind.isprintable() else 'no text'}"
    content = _read_content(attachment, read_binary)
    if content is None:
        return "", _ELSEWHERE
    declared = next(_find_charsets(options), "")
    text, reason = "", ""
    if declared:
        try:
            text = content.decode(declared)
        except (UnicodeDecodeError, LookupError):
            declared = ""
    if not declared:
        text, reason = decode_report(content, Path("attachment"))
    if reason:
        return "", f"it is {reason}"
    if REPLACEMENT in text:
        return "", _DAMAGED
    return (strip_tags(text) if kind in _HTML else text.strip()), ""


def _find_charsets(options: list[str]) -> Iterator[str]:
    for option in options:
        name, _, value = option.partition("=")
        if name == "charset":
            yield value.strip('" ')


def _read_content(attachment: Attachment, read_binary: ReadBinary) -> bytes | None:
    if attachment.data:
        try:
            return base64.b64decode("".join(attachment.data.split()), validate=True)
        except (binascii.Error, ValueError):
            return None
    return read_binary(attachment.url) if attachment.url else None
