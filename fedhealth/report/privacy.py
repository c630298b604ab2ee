"""Report the privacy guarantee and the epsilon that was spent."""

from __future__ import annotations

from fedhealth.privacy.accounting.spending import RunSpending
from fedhealth.report import charts
from fedhealth.report.charts import ChartSeries
from fedhealth.report.page import Cell, Chart, ReportTable, Section
from fedhealth.report.wording import format_count
from fedhealth.runs.record import RunRecord


def describe_guarantee(run: RunRecord) -> str:
    """Return the privacy guarantee, such as `differential privacy for each patient (epsilon at most 8)`."""
    target = run.get_setting("privacy.epsilon")
    unit = str(run.get_setting("privacy.unit", "client")).replace("client", "hospital").replace("record", "study")
    if target is None:
        return "differential privacy"
    return f"differential privacy for each {unit} (epsilon at most {float(target):g})"


def build_privacy_section(run: RunRecord) -> Section | None:
    """Return the section with the entries of each hospital's privacy ledger for this run."""
    if not run.spending:
        return None
    rows = tuple(_build_row(each) for each in run.spending)
    head = ("Hospital", "Epsilon spent", "Allowed", "Delta", "Noise multiplier", "Booked", "Declined")
    table = ReportTable("From the hospitals' privacy ledgers", head, rows)
    most = max(run.spending, key=lambda each: each.epsilon)
    lead = f"Trained with {describe_guarantee(run)}; the largest epsilon that a hospital spent is {most.epsilon:.2f}."
    notes = (
        "Epsilon covers everything that left the hospital: every update, and the noisy scores of the final model. "
        "Scores and losses of single rounds did not leave the hospital.",
        *(("Baseline models that were trained on this machine are not included.",) if run.comparison else ()),
    )
    return Section(
        "privacy", "Privacy spent", lead, (_draw_epsilon(run),), (table,), (*notes, *_format_audit_notes(run))
    )


def _build_row(each: RunSpending) -> tuple[Cell, ...]:
    return (
        Cell(each.site),
        Cell(f"{each.epsilon:.3f}", f"for each {each.unit}"),
        Cell("–" if each.target is None else f"{each.target:g}"),
        Cell(f"{each.delta:.2g}"),
        Cell(f"{each.noise_multiplier:.3g}"),
        Cell(format_count(each.booked_count, "entry")),
        Cell(str(each.declined_count)),
    )


def _draw_epsilon(run: RunRecord) -> Chart:
    lines = [
        ChartSeries(each.site, [0, *(n for n, _ in each.curve)], [0.0, *(e for _, e in each.curve)])
        for each in run.spending
    ]
    top = max(run.spending, key=lambda each: each.epsilon)
    allowed = top.epsilon if top.target is None else top.target
    last = max(line.x[-1] for line in lines)
    limit = ChartSeries("allowed", [0, last], [allowed, allowed])
    description = (
        "Epsilon spent by each hospital after each round, and after the scores of the final model; "
        f"at most {allowed:g}."
    )
    return Chart("Cumulative epsilon", description, charts.draw_curves(limit, lines, "epsilon"))


def _format_audit_notes(run: RunRecord) -> tuple[str, ...]:
    return tuple(f"Audit: {line}." for line in run.audit)
