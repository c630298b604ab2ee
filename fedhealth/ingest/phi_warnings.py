"""Warn of data that may still identify patients: burnt-in text (as far as headers show it) and names in reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from fedhealth.ingest.header import HeaderFields
from fedhealth.ingest.report_text import may_identify_patient

# Modalities and object types whose images usually contain text unless it was removed (PS3.15 E.3.1).
_BURNED = ("US", "ES", "XC", "SC", "OT", "GM", "SM", "XA", "RF", "DOC")


def explain_burned_in_text(fields: HeaderFields) -> str:
    """Return why an image may have text in its pixels; empty if there is no sign of it."""
    if fields.burned_in == "YES":
        return "the header states that annotation is burnt in"
    if fields.burned_in == "NO":
        return ""
    if fields.secondary:
        return "it is a capture of a screen, film or document"
    if fields.modality in _BURNED:
        return f"images of modality {fields.modality} often contain text, and the header does not rule it out"
    return ""


def find_phi_warnings(fields: Iterable[HeaderFields], texts: Iterable[str]) -> list[str]:
    """Return what to check before anybody else sees these data, from the header fields and the reports."""
    found: list[str] = []
    known = list(fields)
    reasons = Counter(filter(None, map(explain_burned_in_text, known)))
    found += [f"Text may be burnt into {count} image(s): {reason}." for reason, count in reasons.most_common()]
    if overlays := sum(each.overlay for each in known):
        found.append(f"{overlays} file(s) have overlay planes, which may contain text; overlays are not stored.")
    if named := sum(map(may_identify_patient, texts)):
        found.append(f"{named} report(s) may still contain a name or a number: check manifest.csv.")
    return found
