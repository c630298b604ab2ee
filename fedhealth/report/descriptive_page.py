"""Summed counts as statistics, small ones suppressed; in words, as a table and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedhealth.config.schema import Config
from fedhealth.privacy.mechanisms.histogram_release import PREFIX
from fedhealth.report.page import Cell, Page, Section, Table
from fedhealth.report.wording import counted, percent
from fedhealth.runs.record import Run
from fedhealth.statistics.descriptive import REACH, STEPS, Quantity, quantities

_QUARTERS = (0.25, 0.5, 0.75)


def statistics(summed: Mapping[str, np.ndarray], config: Config) -> list[dict[str, Any]]:
    """Return every quantity's statistics, for JSON; counts below `evaluation.min_group` are null.

    Args:
        summed: counts by table, of all hospitals together; noised ones may be negative.
        config: names the tables.

    """
    found, least = [], config.evaluation.min_group
    for each in quantities(config):
        counts = np.maximum(summed[PREFIX + each.name], 0)
        patients, missing = int(counts.sum()), int(counts[-1])
        head = {"name": each.name, "patients": _told(patients, least), "missing": _told(missing, least)}
        known = patients - missing
        found.append(head | (_numeric(each, counts, known, least) if each.edges else _named(each, counts, least)))
    return found


def page(found: Sequence[Mapping[str, Any]], run: Run) -> Page:
    """Return the page of a description."""
    return Page(
        kind="Description of the hospitals' patients",
        title=str(run.about.get("name") or run.folder),
        summary=summary(found, run),
        sections=tuple(section for section in (_labels(found), _variables(found)) if section.tables),
        facts=(("Run", str(run.about.get("run", ""))), ("Configuration digest", str(run.about.get("digest", "")))),
        config=run.config_text,
    )


def summary(found: Sequence[Mapping[str, Any]], run: Run) -> str:
    """Say who was counted and how."""
    patients = max((each["patients"] or 0 for each in found), default=0)
    noise = " Counts hold the noise of differential privacy." if run.protected("privacy") else ""
    seen = (
        "The lead saw sums over hospitals only." if run.protected("secagg.lead") else "The lead saw single hospitals."
    )
    return f"{counted(patients, 'patient')} at {counted(len(run.setting('data.sites', ())), 'hospital')}. {seen}{noise}"


def lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line of text for every quantity."""
    return [f"{each['name']}: {_words(each)}; missing {_share(each['missing'], each['patients'])}" for each in found]


def _numeric(each: Quantity, counts: np.ndarray, known: int, least: int) -> dict[str, Any]:
    """Return mean and quartiles, to half a bin; none where few values are known."""
    inside = counts[:-1].astype(float)  # below, bins, above
    if known < least:
        return {"mean": None, "quartiles": None, "exact_to": None}
    edges = np.array([each.edges[0], *each.edges, each.edges[-1]])  # what lies beyond counts as the end
    middle = (edges[:-1] + edges[1:]) / 2
    share = np.cumsum(inside) / inside.sum()
    quartiles = [_quantile(edges, share, level) for level in _QUARTERS]
    exact = (each.edges[1] - each.edges[0]) / 2
    mean = float((inside * middle).sum() / inside.sum())
    return {"mean": _rounded(mean), "quartiles": [_rounded(value) for value in quartiles], "exact_to": _rounded(exact)}


def _quantile(edges: np.ndarray, share: np.ndarray, level: float) -> float:
    """Return where the cumulative share reaches a level, straight within the bin."""
    place = int(np.searchsorted(share, level))
    before = share[place - 1] if place else 0.0
    part = (level - before) / max(share[place] - before, 1e-12)
    return float(edges[place] + part * (edges[place + 1] - edges[place]))


def _named(each: Quantity, counts: np.ndarray, least: int) -> dict[str, Any]:
    return {"counts": {name: _told(int(count), least) for name, count in zip(each.bins, counts, strict=True)}}


def _told(count: int, least: int) -> int | None:
    """Return a count, None if it is too small to say; none at all is said."""
    return count if count == 0 or count >= least else None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _words(each: Mapping[str, Any]) -> str:
    if "counts" not in each:
        if each["mean"] is None:
            return "too few"
        low, middle, high = each["quartiles"]
        return f"mean {each['mean']:g}, median {middle:g} (quartiles {low:g} to {high:g}), to {each['exact_to']:g}"
    shown = {name: count for name, count in each["counts"].items() if name not in ("missing", "unknown")}
    return ", ".join(f"{name} {'too few' if count is None else count}" for name, count in shown.items())


def _share(count: int | None, total: int | None) -> str:
    if count is None or not total:
        return "few"
    return percent(count / total)


def _labels(found: Sequence[Mapping[str, Any]]) -> Section:
    rows = tuple(
        (Cell(each["name"].partition(".")[2]), Cell(_words(each)), Cell(_share(each["missing"], each["patients"])))
        for each in found
        if not each["name"].startswith("variable.")
    )
    table = Table("Labels and modalities", ("", "Patients", "Missing"), rows)
    return Section("labels", "What is known of how many", "", tables=(table,) if rows else ())


def _variables(found: Sequence[Mapping[str, Any]]) -> Section:
    rows = tuple(
        (Cell(each["name"].partition(".")[2]), Cell(_words(each)), Cell(_share(each["missing"], each["patients"])))
        for each in found
        if each["name"].startswith("variable.")
    )
    table = Table("Clinical variables", ("", "Patients", "Missing"), rows)
    note = (
        f"Every patient counts once, by the first study. Values lie in public bins of {2 * REACH / STEPS:g} of a "
        f"variable's scale; what lies more than {REACH:g} scales from its center counts as the end."
    )
    return Section("variables", "Clinical variables", "", tables=(table,) if rows else (), notes=(note,))
