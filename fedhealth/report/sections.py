"""Build the report's sections; a section whose data are absent is omitted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import mean, median

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report import charts
from fedhealth.report.audit_section import build_audit_section
from fedhealth.report.baselines_section import build_baselines_section, build_modalities_section
from fedhealth.report.groups import build_groups_section
from fedhealth.report.heterogeneity import build_heterogeneity_section
from fedhealth.report.notices import count_training_examples
from fedhealth.report.page import Cell, Chart, ReportTable, Section
from fedhealth.report.privacy import EXACT_NOTE, build_privacy_section
from fedhealth.report.quality import build_learning_section, build_quality_section
from fedhealth.report.site_gains import build_site_gains_section
from fedhealth.report.wording import (
    format_bytes,
    format_count,
    format_duration,
    format_integer,
    format_interval,
    format_number,
    format_percent,
    join_words,
)
from fedhealth.runs.record import FEDERATED, MODALITIES, RunRecord


def build_sections(run: RunRecord) -> tuple[Section, ...]:
    """Return the sections of a run in reading order; call it inside `svg.use_house_style`."""
    return tuple(_mark_exact(section, run) for build in SECTION_BUILDERS if (section := build(run)))


def _mark_exact(section: Section, run: RunRecord) -> Section:
    """Return the section, with a note if its numbers are exact although the run is private."""
    if not run.has_exact_results or section.key not in _EXACT_SECTIONS:
        return section
    return replace(section, notes=(EXACT_NOTE, *section.notes))


def build_hospitals_section(run: RunRecord) -> Section | None:
    """Return the section about each hospital's data and the shared model's AUROC on its own patients."""
    tables = tuple(table for table in (_build_data_table(run), _build_own_patients_table(run)) if table)
    if not tables:
        return None
    examples = count_training_examples(run)
    lead = (
        f"{format_count(sum(examples.values()), 'training row')} at {format_count(len(examples), 'hospital')}."
        if examples
        else ""
    )
    rejected = "\n".join(f"{site.name}: {reason}" for site in run.sites for reason in site.rejected)
    details = (("Files that could not be read", rejected),) if rejected else ()
    return Section("hospitals", "The hospitals", lead, tables=tables, details=details)


def build_communication_section(run: RunRecord) -> Section | None:
    """Return the section about bytes sent and received."""
    by_site = {name: _sum_bytes(run, name) for name in run.participating_sites}
    if not by_site:
        return None
    down, up = (sum(pair[side] for pair in by_site.values()) for side in (0, 1))
    rounds: dict[str, list[int]] = {}
    for each in run.exchanges:
        total = rounds.setdefault("final" if each is run.final else str(each.number), [0, 0])
        total[0] += sum(reply.bytes_sent for reply in each.replies)
        total[1] += sum(reply.bytes_received for reply in each.replies)
    names, labels = list(by_site), list(rounds)
    per_site = charts.draw_traffic_by_site(
        names, [by_site[name][0] for name in names], [by_site[name][1] for name in names]
    )
    per_round = charts.draw_traffic_by_round(
        labels, [rounds[key][0] for key in labels], [rounds[key][1] for key in labels]
    )
    drawn = (
        Chart("Bytes per round, all hospitals", "Bytes to and from all hospitals, by round.", per_round),
        Chart("Bytes per hospital, whole run", "Bytes to and from each hospital; see the table.", per_site),
    )
    rows = tuple(_build_traffic_row(run, name, *pair) for name, pair in by_site.items())
    table = ReportTable(
        "Traffic",
        ("Hospital", "To the hospital", "From the hospital", "Both, per round"),
        (*rows, _build_traffic_row(run, _ALL_HOSPITALS, down, up)),
    )
    lead = f"In total, {format_bytes(down)} were sent to the hospitals and {format_bytes(up)} were received from them."
    note = "Only requests that got a reply, and these replies, are counted; transport overhead is excluded."
    return Section("communication", "Communication", lead, drawn, (table,), (note,))


def build_timeline_section(run: RunRecord) -> Section | None:
    """Return the section about the time to reply, and missing replies, per hospital and round."""
    if not run.rounds:
        return None
    seconds = {(reply.site, each.number): reply.seconds for each in run.rounds for reply in each.replies}
    failed = {(site, each.number) for each in run.rounds for site in each.failures}
    took_part = {name for name, _ in (*seconds, *failed)}
    sites = [site.name for site in run.sites if site.name in took_part]
    if not sites:
        return None
    took = [each.seconds for each in run.rounds if not math.isnan(each.seconds)]
    lead = f"{format_count(run.completed_rounds, 'round')}"
    if took:
        lead += f", {format_duration(median(took))} each (median), the slowest {format_duration(max(took))}"
    if not math.isnan(run.training_seconds):
        lead += f"; training and final evaluation took {format_duration(run.training_seconds)}"
    slowest = format_duration(max(seconds.values(), default=float("nan")))
    marks = f"Stronger colour means slower; the strongest is {slowest}."
    if failed:
        marks += " A cross means no contribution."
    chart = Chart("Seconds until each hospital replied", marks, charts.draw_timeline(sites, seconds, failed))
    rows = tuple(_build_reply_time_row(run, name, seconds) for name in sites)
    table = ReportTable("Time to reply", ("Hospital", "Median", "Slowest", "Rounds missed"), rows)
    return Section("timeline", "Timeline of rounds", f"{lead}.", (chart,), (table,), (marks,))


def _build_data_table(run: RunRecord) -> ReportTable | None:
    known = [site for site in run.sites if site.counts]
    if not known:
        return None
    used = [name for name in MODALITIES if any(site.counts.get(name) for site in known)]
    head = ("Hospital", "Rows", "Patients", *(name.capitalize() for name in used), "Unlabelled", "Files rejected")
    rows = tuple(
        (
            Cell(site.name),
            Cell(format_integer(site.counts["rows"])),
            Cell(format_integer(site.counts["patients"])),
            *(_format_present(site.counts[name], site.counts["rows"]) for name in used),
            Cell(format_integer(site.counts["unlabelled"])),
            Cell(format_integer(site.counts["rejected"])),
        )
        for site in known
    )
    return ReportTable("What each hospital has", head, rows)


def _format_present(count: int, rows: int) -> Cell:
    missing = rows - count
    return Cell(format_integer(count), f"{format_percent(missing / rows)} missing" if missing > 0 else "")


def _build_own_patients_table(run: RunRecord) -> ReportTable | None:
    """Return the AUROC of the shared model, and of the locally trained model, on each site's own test patients."""
    compared = run.comparison
    if compared is None or not any(name == FEDERATED for name, _ in compared.site_scores):
        return None
    alone = any(name.startswith("alone ") for name, _ in compared.site_scores)
    head = ("Hospital", "Test rows", "Shared model", *(("Trained alone",) if alone else ()))
    rows = []
    for site in run.sites:
        if (FEDERATED, site.name) not in compared.site_scores:
            continue
        scores = [compared.site_scores[FEDERATED, site.name]]
        if alone:
            scores.append(compared.site_scores.get((f"alone {site.name}", site.name), Estimate(*[float("nan")] * 3)))
        tested = Cell(format_integer(site.counts["test"]) if "test" in site.counts else "–")
        rows.append(
            (Cell(site.name), tested, *(Cell(format_number(score.value), format_interval(score)) for score in scores))
        )
    return ReportTable("AUROC on the hospital's own test patients [95\N{NO-BREAK SPACE}% interval]", head, tuple(rows))


def _sum_bytes(run: RunRecord, site: str) -> tuple[int, int]:
    replies = [reply for each in run.exchanges for reply in each.replies if reply.site == site]
    return sum(reply.bytes_sent for reply in replies), sum(reply.bytes_received for reply in replies)


def _build_traffic_row(run: RunRecord, name: str, down: int, up: int) -> tuple[Cell, ...]:
    """Return a site's totals, and its mean bytes in both directions per training round in which it replied."""
    rounds = [[each for each in one.replies if name in (each.site, _ALL_HOSPITALS)] for one in run.rounds]
    both = [sum(each.bytes_sent + each.bytes_received for each in answers) for answers in rounds if answers]
    return Cell(name), Cell(format_bytes(down)), Cell(format_bytes(up)), Cell(format_bytes(mean(both)) if both else "–")


def _build_reply_time_row(run: RunRecord, site: str, seconds: dict[tuple[str, int], float]) -> tuple[Cell, ...]:
    own = {number: took for (name, number), took in seconds.items() if name == site}
    missed = run.list_missed_rounds(site)
    slowest = max(own, key=lambda number: own[number], default=0)
    return (
        Cell(site),
        Cell(format_duration(median(own.values())) if own else "–"),
        Cell(format_duration(own[slowest]), f"round {slowest}") if own else Cell("–"),
        Cell(str(len(missed)), join_words([str(each.number) for each in missed])),
    )


_ALL_HOSPITALS = "All hospitals"
_EXACT_SECTIONS = (
    "federate",
    "gains",
    "modalities",
    "hospitals",
)  # their numbers are computed from the data on this machine

SECTION_BUILDERS: tuple[Callable[[RunRecord], Section | None], ...] = (
    build_baselines_section,
    build_site_gains_section,
    build_modalities_section,
    build_learning_section,
    build_quality_section,
    build_groups_section,
    build_hospitals_section,
    build_heterogeneity_section,
    build_privacy_section,
    build_audit_section,
    build_communication_section,
    build_timeline_section,
)
