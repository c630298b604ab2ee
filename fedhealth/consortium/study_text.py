"""A study in words, for the people who decide on it, and what one version changes compared with another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from fedhealth.config.open_paths import OpenPath, encode_setting, flatten_settings
from fedhealth.consortium.contract_text import describe_contract
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.consortium.run_terms_text import describe_run_terms
from fedhealth.utils.privacy_text import format_delta, format_unit

_MINOR = ("contact", "first_day", "last_day")
_LONGEST_VALUE, _SHOWN_DIGITS = 120, 32


def describe_study(study: ResearchStudy) -> Iterator[str]:
    """Yield the lines that a hospital's people read before they decide."""
    yield f"{study.label}: {study.title}"
    yield f"  purpose    {study.purpose}"
    yield f"  contact    {study.contact}"
    yield f"  permit     {study.ethics}"
    yield f"  dates      {study.first_day} to {study.last_day}"
    yield f"  hospitals  {', '.join(study.members)}"
    yield f"  runs       {study.runs}, each as below"
    yield from describe_run_terms(study.configuration, study.open)
    yield f"  budget     {describe_budget(study)}"
    yield f"  released   {'; '.join(study.releases)}"
    yield "  closed by the lead" if study.closed else f"  digest     {study.digest}"
    yield "  what the data mean:"
    yield from (f"    {line}" for line in describe_contract(study.configuration["data"]))
    yield from (f"  weights    {name}, SHA-256 {digest}" for name, digest in study.weights.items())
    yield "  what runs may vary:" if study.open else "  runs may vary nothing"
    yield from (f"    {each.path}: {_format_choices(each)}" for each in study.open)


def describe_budget(study: ResearchStudy) -> str:
    """Return what all runs of a study may spend together."""
    if study.epsilon is None:
        return "no differential privacy: the sums over the hospitals are exact"
    unit = format_unit(str(study.configuration["privacy"].get("unit", "client")))
    return f"epsilon {study.epsilon:g} at delta {format_delta(study.delta)} for each {unit}, all runs together"


def describe_changes(before: ResearchStudy, after: ResearchStudy) -> Iterator[str]:
    """Yield what another version of a study changes; nothing if it changes its number only."""
    for name in ("title", "purpose", "contact", "ethics", "first_day", "last_day", "runs"):
        yield from _describe_change(name.replace("_", " "), getattr(before, name), getattr(after, name), str)
    for name in ("members", "releases", "overrides"):
        yield from _describe_lists(name, getattr(before, name), getattr(after, name))
    yield from _describe_change("budget", describe_budget(before), describe_budget(after), str)
    settings = [dict(flatten_settings(each.configuration)) for each in (before, after)]
    yield from _describe_mappings("", settings[0], settings[1])
    yield from _describe_mappings("weights ", dict(before.weights), dict(after.weights))
    before_open, after_open = ({each.path: each for each in study.open} for study in (before, after))
    yield from _describe_mappings("runs may vary ", before_open, after_open, _format_choices)
    if after.closed and not before.closed:
        yield "the lead has closed the study"


def is_minor_change(before: ResearchStudy, after: ResearchStudy) -> bool:
    """Return whether a version changes nothing but the contact and the dates."""
    names = [each.name for each in fields(before) if each.name not in (*_MINOR, "version")]
    pinned = [{name: getattr(each, name) for name in names} for each in (before, after)]
    return encode_setting(_as_plain(pinned[0])) == encode_setting(_as_plain(pinned[1]))


def _as_plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "open": [[each.path, each.values, each.may_be_absent] for each in fields["open"]]}


def _format_choices(choice: OpenPath) -> str:
    return ", ".join([*map(_format_value, choice.values), *(["not set"] if choice.may_be_absent else [])])


def _reads_as_other(text: str) -> bool:
    """Return whether a text could be taken for a number, a truth value or several values."""
    try:
        json.loads(text)
    except ValueError:
        return ", " in text or text == "not set"
    return True


def _format_value(value: Any) -> str:
    text = value if isinstance(value, str) and not _reads_as_other(value) else json.dumps(value, ensure_ascii=False)
    if len(text) <= _LONGEST_VALUE:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_SHOWN_DIGITS]  # so that a change of the rest shows
    return f"{text[:_LONGEST_VALUE]}... ({len(text)} characters, SHA-256 {digest})"


def _describe_change(name: str, before: Any, after: Any, show: Callable[[Any], str]) -> Iterator[str]:
    shown = [show(value) for value in (before, after)]
    if before != after or shown[0] != shown[1]:  # True equals 1
        yield f"{name}: {shown[0]} is now {shown[1]}"


def _describe_lists(name: str, before: tuple[str, ...], after: tuple[str, ...]) -> Iterator[str]:
    yield from (f"{name}: {each} is new" for each in after if each not in before)
    yield from (f"{name}: {each} is gone" for each in before if each not in after)


def _describe_mappings(
    prefix: str, before: dict[str, Any], after: dict[str, Any], show: Callable[[Any], str] = _format_value
) -> Iterator[str]:
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            yield f"{prefix}{path}: no longer set, was {show(before[path])}"
        elif path not in before:
            yield f"{prefix}{path}: {show(after[path])} is new"
        else:
            yield from _describe_change(f"{prefix}{path}", before[path], after[path], show)
