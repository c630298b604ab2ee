"""Build descriptive statistics and their page from counts summed over hospitals; small counts are suppressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedhealth.config.schema import Config
from fedhealth.privacy.mechanisms.histogram_release import DESCRIPTIVE_PREFIX
from fedhealth.privacy.mechanisms.noised_counts import NOISE
from fedhealth.report.notices import repeat_data_findings
from fedhealth.report.page import Cell, Page, ReportTable, Section
from fedhealth.report.privacy import describe_guarantee
from fedhealth.report.wording import format_count, format_noised_count, format_percent
from fedhealth.runs.record import RunRecord
from fedhealth.statistics.descriptive import REACH, Quantity, list_quantities
from fedhealth.statistics.noised_statistics import (
    QUARTERS,
    compute_mean,
    compute_noised_statistics,
    interpolate_quantile,
    round_to_four_digits,
)


def compute_statistics(summed: Mapping[str, np.ndarray], config: Config) -> list[dict[str, Any]]:
    """Return the statistics of every quantity, for JSON; counts below `evaluation.min_group` are null.

    Args:
        summed: counts by table, summed over hospitals; with noise, their words (`noised_counts`).
        config: gives the tables' names.

    """
    if (variance := summed.get(DESCRIPTIVE_PREFIX + NOISE)) is not None:
        tables = {each: summed[DESCRIPTIVE_PREFIX + each.name] for each in list_quantities(config)}
        return compute_noised_statistics(tables, variance, config.seed)
    statistics, least = [], config.evaluation.min_group
    for each in list_quantities(config):
        counts = summed[DESCRIPTIVE_PREFIX + each.name]
        patients, missing = int(counts.sum()), int(counts[-1])
        head = {
            "name": each.name,
            "patients": _suppress_small_count(patients, least),
            "missing": _suppress_small_count(missing, least),
        }
        known = patients - missing
        statistics.append(
            head
            | (
                _compute_numeric_statistics(each, counts, known, least)
                if each.edges
                else _compute_category_counts(each, counts, least)
            )
        )
    return statistics


def build_descriptive_page(statistics: Sequence[Mapping[str, Any]], run: RunRecord) -> Page:
    """Return the page of descriptive statistics."""
    sections = (_build_labels_section(statistics), _build_variables_section(statistics))
    return Page(
        kind="Descriptive statistics of the hospitals' patients",
        title=run.info.name or run.folder,
        summary=summarize_patients(statistics, run),
        notices=tuple(repeat_data_findings(run)),
        sections=tuple(section for section in sections if section.tables),
        facts=(("Run", run.info.run), ("Configuration digest", run.info.digest)),
        config=run.config_text,
    )


def summarize_patients(statistics: Sequence[Mapping[str, Any]], run: RunRecord) -> str:
    """Return a summary of who was counted and how the counts are protected."""
    patients = max((each["patients"] or 0 for each in statistics), default=0)
    found = format_count(patients, "patient")
    noise = ""
    if run.is_private:
        std = max((each.get("noise_std", 0.0) for each in statistics), default=0.0)
        low, high = statistics[0]["patients_interval"] if statistics else (0, 0)
        found = format_noised_count(patients, (high - low) / 2, "patient")
        noise = (
            f" Counts contain the noise of {describe_guarantee(run)}: its standard deviation is {std:.1f} patients in "
            "every count. Brackets show 95\N{NO-BREAK SPACE}% intervals of the noise; what is lost in it is not shown."
        )
    visible = "only sums over hospitals" if run.has_secure_aggregation else "each hospital's own counts"
    hospitals = format_count(len(run.get_setting("data.sites", ())), "hospital")
    return f"{found} at {hospitals}. The lead saw {visible}.{noise}"


def format_statistics(statistics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line of text for every quantity."""
    return [
        f"{each['name']}: {_format_values(each)}; missing {_format_missing(each['missing'], each['patients'])}"
        for each in statistics
    ]


def _compute_numeric_statistics(each: Quantity, counts: np.ndarray, known: int, least: int) -> dict[str, Any]:
    """Return mean and quartiles, exact to half a bin; null if too few values are known."""
    inside = counts[:-1].astype(float)  # below, bins, above
    if known < least:
        return {"mean": None, "quartiles": None, "exact_to": None}
    edges = np.array([each.edges[0], *each.edges, each.edges[-1]])  # values beyond the range count as its end
    return {
        "mean": round_to_four_digits(compute_mean(edges, inside)),
        "quartiles": [round_to_four_digits(interpolate_quantile(edges, inside, level)) for level in QUARTERS],
        "exact_to": round_to_four_digits((each.edges[1] - each.edges[0]) / 2),
    }


def _compute_category_counts(each: Quantity, counts: np.ndarray, least: int) -> dict[str, Any]:
    return {
        "counts": {
            name: _suppress_small_count(int(count), least) for name, count in zip(each.bins, counts, strict=True)
        }
    }


def _suppress_small_count(count: int, least: int) -> int | None:
    """Return a count, or None if it is too small to publish; zero is published."""
    return count if count == 0 or count >= least else None


def _format_values(each: Mapping[str, Any]) -> str:
    if "counts" not in each:
        if each["mean"] is None:
            return "too few"
        if "mean_interval" in each:
            return _format_noised_values(each)
        low, middle, high = each["quartiles"]
        return f"mean {each['mean']:g}, median {middle:g} (quartiles {low:g} to {high:g}), to {each['exact_to']:g}"
    shown = {name: count for name, count in each["counts"].items() if name not in ("missing", "unknown")}
    intervals = {name: f" [{low}, {high}]" for name, (low, high) in each.get("intervals", {}).items()}
    return ", ".join(
        f"{name} {'too few' if count is None else count}{intervals.get(name, '')}" for name, count in shown.items()
    )


def _format_noised_values(each: Mapping[str, Any]) -> str:
    """Return mean and quartiles with their intervals."""
    named = zip(
        ("mean", "median", "quartiles", "and"),
        (each["mean"], *(each["quartiles"][place] for place in (1, 0, 2))),
        (each["mean_interval"], *(each["quartile_intervals"][place] for place in (1, 0, 2))),
        strict=True,
    )
    parts = [f"{name} {value:g} [{low:g}, {high:g}]" for name, value, (low, high) in named]
    return f"{', '.join(parts[:3])} {parts[3]}"


def _format_missing(count: int | None, total: int | None) -> str:
    if count is None or not total:
        return "few"
    return format_percent(count / total)


def _build_labels_section(statistics: Sequence[Mapping[str, Any]]) -> Section:
    rows = tuple(
        (
            Cell(each["name"].partition(".")[2]),
            Cell(_format_values(each)),
            Cell(_format_missing(each["missing"], each["patients"])),
        )
        for each in statistics
        if not each["name"].startswith("variable.")
    )
    table = ReportTable("Labels and modalities", ("", "Patients", "Missing"), rows)
    return Section("labels", "Labels and modalities", "", tables=(table,) if rows else ())


def _build_variables_section(statistics: Sequence[Mapping[str, Any]]) -> Section:
    rows = tuple(
        (
            Cell(each["name"].partition(".")[2]),
            Cell(_format_values(each)),
            Cell(_format_missing(each["missing"], each["patients"])),
        )
        for each in statistics
        if each["name"].startswith("variable.")
    )
    table = ReportTable("Clinical variables", ("", "Patients", "Missing"), rows)
    note = (
        "Every patient counts once, with the first study. Values are counted in public bins of equal width; a value "
        f"more than {REACH:g} of a variable's scales away from its center counts as {REACH:g} scales."
    )
    return Section("variables", "Clinical variables", "", tables=(table,) if rows else (), notes=(note,))
