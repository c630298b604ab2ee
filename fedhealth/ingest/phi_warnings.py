"""What may still show who a patient is: text burnt into pixels, as far as headers tell, and names left in reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from fedhealth.ingest.header import Facts
from fedhealth.ingest.text import suspicious

# Modalities and object types whose images usually carry text unless somebody took it out (PS3.15 E.3.1).
_BURNED = ("US", "ES", "XC", "SC", "OT", "GM", "SM", "XA", "RF", "DOC")


def burned_in(facts: Facts) -> str:
    """Return why an image may have text in its pixels; empty where nothing says so."""
    if facts.burned_in == "YES":
        return "the header says that annotation is burnt in"
    if facts.burned_in == "NO":
        return ""
    if facts.secondary:
        return "it is a capture of a screen, film or document"
    if facts.modality in _BURNED:
        return f"images of modality {facts.modality} often have text in them, and the header does not deny it"
    return ""


def warnings(facts: Iterable[Facts], texts: Iterable[str]) -> list[str]:
    """Say what to look at before anybody else sees these data: headers of their images, and their reports."""
    found: list[str] = []
    known = list(facts)
    reasons = Counter(filter(None, map(burned_in, known)))
    found += [f"Text may be burnt into {count} image(s): {reason}." for reason, count in reasons.most_common()]
    if overlays := sum(each.overlay for each in known):
        found.append(f"{overlays} file(s) have overlay planes, which may hold text; they are not part of the cache.")
    if named := sum(map(suspicious, texts)):
        found.append(f"{named} report(s) still seem to hold a name or a number: look at manifest.csv.")
    return found
