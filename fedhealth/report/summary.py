"""The run in one paragraph of plain words, and in four figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean

from fedhealth.evaluation.metrics import METRIC
from fedhealth.report.page import Tile
from fedhealth.report.privacy import promise
from fedhealth.report.verdict import alone_on_average
from fedhealth.report.wording import METRIC_NAMES, bracket, counted, interval, listed, number, size
from fedhealth.runs.record import CENTRALISED, Run, traffic_per_site


def summary(run: Run) -> str:
    """Return the paragraph."""
    parts = (_result(run), _alternatives(run), _traffic(run), _absences(run), _protection(run))
    return " ".join(part for part in parts if part)


def tiles(run: Run) -> tuple[Tile, ...]:
    """Return the key figures that this run has."""
    return tuple(_tiles(run))


def _result(run: Run) -> str:
    sites = counted(len(run.taking_part), "hospital")
    begun = f"{sites}, {counted(run.rounds_done, 'round')}"
    if not run.rounds:
        return "No round of training is on record."
    if run.test is None:
        return f"{begun}: there is no test result, so how good the shared model is remains open."
    score = run.test.metrics[METRIC]
    on = f"on {counted(run.test.studies, 'test study')} that no hospital trained on"
    if math.isnan(score.value):
        return f"{begun}: the pooled {METRIC_NAMES[METRIC]} {on} is not defined, because all are of one class."
    return f"{begun}: the shared model reaches a pooled {METRIC_NAMES[METRIC]} of {interval(score)} {on}."


def _alternatives(run: Run) -> str:
    if not run.comparison:
        return ""
    alone, pooled = alone_on_average(run.comparison), run.comparison.gains.get(CENTRALISED)
    said = []
    if alone and not math.isnan(alone.alternative.value):
        said.append(f"trained alone, the hospitals reach {number(alone.alternative.value)} on average")
    if pooled and not math.isnan(pooled.alternative.value):
        said.append(f"one model trained on all data in one place reaches {number(pooled.alternative.value)}")
    return _sentence("; ".join(said))


def _traffic(run: Run) -> str:
    down, up = traffic_per_site(run)
    if not down and not up:
        return ""
    each = "Each hospital" if len(run.taking_part) == 1 else "Each hospital on average"
    return f"{each} received {size(down)} and sent {size(up)}."


def _absences(run: Run) -> str:
    missed = [
        f"{site.name} missed {counted(len(missed), 'round')}" for site in run.sites if (missed := run.missed(site.name))
    ]
    absent = [site.name for site in run.sites if site.name not in run.taking_part] if run.rounds else []
    said = [*missed, *([f"{listed(absent)} did not take part"] if absent else [])]
    if said:
        return f"{'; '.join(said)}."
    return "No hospital missed a round." if run.rounds else ""


def _protection(run: Run) -> str:
    privacy = {True: f"trained with {promise(run)}", False: "no differential privacy", None: ""}
    secagg = {
        True: "secure aggregation: the lead saw only sums over hospitals",
        False: "no secure aggregation: the lead saw each hospital's own update",
        None: "",
    }
    said = [privacy[run.protected("privacy")], secagg[run.protected("secagg.lead")]]
    return _sentence("; ".join(filter(None, said)))


def _tiles(run: Run) -> Iterator[Tile]:
    if run.test and not math.isnan((score := run.test.metrics[METRIC]).value):
        yield Tile(number(score.value), f"pooled test {METRIC_NAMES[METRIC]}", bracket(score))
    gain = alone_on_average(run.comparison) if run.comparison else None
    if gain and not math.isnan(gain.gain.value):
        yield Tile(number(gain.gain.value, sign=True), "gained over training alone", bracket(gain.gain, sign=True))
    if run.rounds:
        answered = mean(len(each.answers) / max(1, len(each.answers) + len(each.failures)) for each in run.rounds)
        of = f"{len(run.taking_part)} of {len(run.sites)}"
        yield Tile(of, "hospitals took part", f"{100 * answered:.0f}\N{NO-BREAK SPACE}% of answers arrived")
        down, up = traffic_per_site(run)
        yield Tile(size(up), "sent by each hospital", f"{size(down)} received")
    yield from _spent(run)


def _spent(run: Run) -> Iterator[Tile]:
    if run.spending:
        most = max(run.spending, key=lambda each: each.epsilon)
        yield Tile(f"{most.epsilon:.2f}", "epsilon spent", f"for each {most.unit}, the most at any hospital")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
