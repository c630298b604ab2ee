"""The report's sections, each from a run to a section, or to nothing where its data are absent."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import mean, median

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report import charts
from fedhealth.report.baselines_section import comparison, modality_comparison
from fedhealth.report.groups import groups
from fedhealth.report.heterogeneity import heterogeneity
from fedhealth.report.notices import training_examples
from fedhealth.report.page import Cell, Chart, Section, Table
from fedhealth.report.privacy import privacy
from fedhealth.report.quality import learning, quality
from fedhealth.report.wording import bracket, counted, duration, integer, listed, number, percent, size
from fedhealth.runs.record import FEDERATED, MODALITIES, Run


def sections(run: Run) -> tuple[Section, ...]:
    """Return the sections that this run has, in reading order. Call it within the charts' house style."""
    return tuple(section for build in ORDER if (section := build(run)))


def hospitals(run: Run) -> Section | None:
    """Who has which data, and how the shared model does on each hospital's own patients."""
    tables = tuple(table for table in (_data_table(run), _own_table(run)) if table)
    if not tables:
        return None
    examples = training_examples(run)
    lead = (
        f"{counted(sum(examples.values()), 'training row')} at {counted(len(examples), 'hospital')}."
        if examples
        else ""
    )
    rejected = "\n".join(f"{site.name}: {reason}" for site in run.sites for reason in site.rejected)
    details = (("Files that could not be read", rejected),) if rejected else ()
    return Section("hospitals", "The hospitals", lead, tables=tables, details=details)


def communication(run: Run) -> Section | None:
    """How many bytes went where."""
    by_site = {name: _bytes(run, name) for name in run.taking_part}
    if not by_site:
        return None
    down, up = (sum(pair[side] for pair in by_site.values()) for side in (0, 1))
    rounds: dict[str, list[int]] = {}
    for each in run.exchanges:
        total = rounds.setdefault("final" if each is run.final else str(each.number), [0, 0])
        total[0] += sum(answer.sent for answer in each.answers)
        total[1] += sum(answer.received for answer in each.answers)
    names, labels = list(by_site), list(rounds)
    per_site = charts.traffic(names, [by_site[name][0] for name in names], [by_site[name][1] for name in names])
    per_round = charts.traffic_by_round(labels, [rounds[key][0] for key in labels], [rounds[key][1] for key in labels])
    drawn = (
        Chart("Bytes per round, all hospitals", "Bytes to and from all hospitals, by round.", per_round),
        Chart("Bytes per hospital, whole run", "Bytes to and from each hospital; the table has the numbers.", per_site),
    )
    rows = tuple(_traffic_row(run, name, *pair) for name, pair in by_site.items())
    table = Table(
        "Traffic",
        ("Hospital", "To the hospital", "From the hospital", "Both, per round"),
        (*rows, _traffic_row(run, _ALL, down, up)),
    )
    lead = f"In total {size(down)} went to the hospitals and {size(up)} came back."
    note = "Counted are the questions that were answered and their answers, without transport overhead."
    return Section("communication", "Communication", lead, drawn, (table,), (note,))


def timeline(run: Run) -> Section | None:
    """When who answered, and who did not."""
    if not run.rounds:
        return None
    seconds = {(answer.site, each.number): answer.seconds for each in run.rounds for answer in each.answers}
    failed = {(site, each.number) for each in run.rounds for site in each.failures}
    sites = [site.name for site in run.sites if any(site.name == name for name, _ in (*seconds, *failed))]
    if not sites:
        return None
    took = [each.seconds for each in run.rounds if not math.isnan(each.seconds)]
    lead = f"{counted(run.rounds_done, 'round')}"
    if took:
        lead += f", {duration(median(took))} each (median), the slowest {duration(max(took))}"
    if not math.isnan(run.training_seconds):
        lead += f"; training and final evaluation took {duration(run.training_seconds)}"
    slowest = duration(max(seconds.values(), default=float("nan")))
    marks = f"The stronger the colour, the slower; the strongest is {slowest}."
    if failed:
        marks += " A cross: no contribution."
    chart = Chart("Seconds until each hospital answered", marks, charts.timeline(sites, seconds, failed))
    rows = tuple(_pace_row(run, name, seconds) for name in sites)
    table = Table("Time to answer", ("Hospital", "Median", "Slowest", "Rounds missed"), rows)
    return Section("timeline", "Timeline of rounds", f"{lead}.", (chart,), (table,), (marks,))


def _data_table(run: Run) -> Table | None:
    known = [site for site in run.sites if site.counts]
    if not known:
        return None
    used = [name for name in MODALITIES if any(site.counts.get(name) for site in known)]
    head = ("Hospital", "Rows", "Patients", *(name.capitalize() for name in used), "Unlabelled", "Files rejected")
    rows = tuple(
        (
            Cell(site.name),
            Cell(integer(site.counts["rows"])),
            Cell(integer(site.counts["patients"])),
            *(_present(site.counts[name], site.counts["rows"]) for name in used),
            Cell(integer(site.counts["unlabelled"])),
            Cell(integer(site.counts["rejected"])),
        )
        for site in known
    )
    return Table("What each hospital has", head, rows)


def _present(count: int, rows: int) -> Cell:
    missing = rows - count
    return Cell(integer(count), f"{percent(missing / rows)} missing" if missing > 0 else "")


def _own_table(run: Run) -> Table | None:
    """How the shared model does on each site's own test patients, beside the model that was trained there alone."""
    compared = run.comparison
    if compared is None or not any(name == FEDERATED for name, _ in compared.own):
        return None
    alone = any(name.startswith("alone ") for name, _ in compared.own)
    head = ("Hospital", "Test rows", "Shared model", *(("Trained alone",) if alone else ()))
    rows = []
    for site in run.sites:
        if (FEDERATED, site.name) not in compared.own:
            continue
        scores = [compared.own[FEDERATED, site.name]]
        if alone:
            scores.append(compared.own.get((f"alone {site.name}", site.name), Estimate(*[float("nan")] * 3)))
        tested = Cell(integer(site.counts["test"]) if "test" in site.counts else "–")
        rows.append((Cell(site.name), tested, *(Cell(number(score.value), bracket(score)) for score in scores)))
    return Table("AUROC on the hospital's own test patients [95\N{NO-BREAK SPACE}% interval]", head, tuple(rows))


def _bytes(run: Run, site: str) -> tuple[int, int]:
    answers = [answer for each in run.exchanges for answer in each.answers if answer.site == site]
    return sum(answer.sent for answer in answers), sum(answer.received for answer in answers)


def _traffic_row(run: Run, name: str, down: int, up: int) -> tuple[Cell, ...]:
    """Return a site's totals, and both directions together in a mean training round that it answered."""
    rounds = [[each for each in one.answers if name in (each.site, _ALL)] for one in run.rounds]
    both = [sum(each.sent + each.received for each in answers) for answers in rounds if answers]
    return Cell(name), Cell(size(down)), Cell(size(up)), Cell(size(mean(both)) if both else "–")


def _pace_row(run: Run, site: str, seconds: dict[tuple[str, int], float]) -> tuple[Cell, ...]:
    own = {number: took for (name, number), took in seconds.items() if name == site}
    missed = run.missed(site)
    slowest = max(own, key=lambda number: own[number], default=0)
    return (
        Cell(site),
        Cell(duration(median(own.values())) if own else "–"),
        Cell(duration(own[slowest]), f"round {slowest}") if own else Cell("–"),
        Cell(str(len(missed)), listed([str(each.number) for each in missed])),
    )


_ALL = "All hospitals"

ORDER: tuple[Callable[[Run], Section | None], ...] = (
    comparison,
    modality_comparison,
    learning,
    quality,
    groups,
    hospitals,
    heterogeneity,
    privacy,
    communication,
    timeline,
)
