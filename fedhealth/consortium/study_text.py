"""A study in words, for the people who decide on it, and what one version changes compared with another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fedhealth.config.open_paths import OpenPath, encode_setting, flatten_settings
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.utils.privacy_text import format_delta

_MINOR = ("title", "purpose", "contact", "first_day", "last_day")
_LONGEST_VALUE = 120


def describe_study(study: ResearchStudy) -> Iterator[str]:
    """Yield the lines that a hospital's people read before they decide."""
    yield f"{study.label}: {study.title}"
    yield f"  purpose    {study.purpose}"
    yield f"  contact    {study.contact}"
    yield f"  permit     {study.ethics}"
    yield f"  dates      {study.first_day} to {study.last_day}"
    yield f"  hospitals  {', '.join(study.members)}"
    yield f"  runs       {study.runs}, each as below"
    yield f"  budget     {describe_budget(study)}"
    yield f"  released   {'; '.join(study.releases)}"
    yield "  closed by the lead" if study.closed else f"  digest     {study.digest}"
    yield "  what the data mean:"
    yield from (f"    {line}" for line in _describe_contract(study.configuration["data"]))
    yield from (f"  weights    {name}, SHA-256 {digest}" for name, digest in study.weights.items())
    yield "  what runs may vary:" if study.open else "  runs may vary nothing"
    yield from (f"    {each.path}: {_format_choices(each)}" for each in study.open)


def describe_budget(study: ResearchStudy) -> str:
    """Return what all runs of a study may spend together."""
    if study.epsilon is None:
        return "no differential privacy: the sums over the hospitals are exact"
    return (
        f"epsilon {study.epsilon:g} at delta {format_delta(study.delta)} for each protected person, all runs together"
    )


def describe_changes(before: ResearchStudy, after: ResearchStudy) -> Iterator[str]:
    """Yield what another version of a study changes; nothing if it changes its number only."""
    for name in ("title", "purpose", "contact", "ethics", "first_day", "last_day", "runs"):
        yield from _describe_change(name.replace("_", " "), getattr(before, name), getattr(after, name))
    for name in ("members", "releases", "overrides"):
        yield from _describe_lists(name, getattr(before, name), getattr(after, name))
    yield from _describe_change("budget", describe_budget(before), describe_budget(after))
    settings = [dict(flatten_settings(each.configuration)) for each in (before, after)]
    yield from _describe_mappings("", *settings)
    yield from _describe_mappings("weights ", dict(before.weights), dict(after.weights))
    choices = [{each.path: _format_choices(each) for each in study.open} for study in (before, after)]
    yield from _describe_mappings("runs may vary ", *choices)
    if after.closed and not before.closed:
        yield "the lead has closed the study"


def is_minor_change(before: ResearchStudy, after: ResearchStudy) -> bool:
    """Return whether a version changes nothing but texts for people and dates."""
    pinned = [{k: v for k, v in vars(each).items() if k not in (*_MINOR, "version")} for each in (before, after)]
    return encode_setting(_as_plain(pinned[0])) == encode_setting(_as_plain(pinned[1]))


def _as_plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "open": [[each.path, each.values, each.may_be_absent] for each in fields["open"]]}


def _describe_contract(data: dict[str, Any]) -> Iterator[str]:
    task = data["task"]
    yield f"data {data['name']}: {task['kind']} with the classes {', '.join(task['classes'])}"
    for name, column in data["tabular"].items():
        if column["kind"] == "categorical":
            yield f"{name}: one of {', '.join(column['levels'])}{_format_required(column)}"
        else:
            unit = f" in {column['unit']}" if column["unit"] else ""
            valid = f", {column['valid_range'][0]:g} to {column['valid_range'][1]:g}" if column["valid_range"] else ""
            scaled = f", as (value - {column['center']:g}) / {column['scale']:g}"
            yield f"{name}: a number{unit}{valid}{scaled}{_format_required(column)}"
    image = data["image"]
    yield f"images: {image['channels']} x {image['size']} x {image['size']} pixels"
    split = data["split"]
    held_out = f"{split['validation']:g} for validation, {split['test']:g} for tests"
    yield f"held out where the table names no split: {held_out}"
    yield f"unreadable images: at most {data['max_rejected']:.1%}"


def _format_required(column: dict[str, Any]) -> str:
    return ", required" if column["required"] else ""


def _format_choices(choice: OpenPath) -> str:
    return ", ".join([*map(_format_value, choice.values), *(["not set"] if choice.may_be_absent else [])])


def _format_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _describe_change(name: str, before: Any, after: Any) -> Iterator[str]:
    if before != after:
        yield f"{name}: {_format_value(before)} is now {_format_value(after)}"


def _describe_lists(name: str, before: tuple[str, ...], after: tuple[str, ...]) -> Iterator[str]:
    yield from (f"{name}: {each} is new" for each in after if each not in before)
    yield from (f"{name}: {each} is gone" for each in before if each not in after)


def _describe_mappings(prefix: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for path in sorted(before.keys() | after.keys()):
        if path not in after:
            yield f"{prefix}{path}: no longer set, was {_format_value(before[path])}"
        elif path not in before:
            yield f"{prefix}{path}: {_format_value(after[path])} is new"
        else:
            yield from _describe_change(f"{prefix}{path}", before[path], after[path])
