"""What was promised to the patients, and how much of it is spent."""

from __future__ import annotations

from fedhealth.privacy.accounting.spending import Spending
from fedhealth.report import charts
from fedhealth.report.charts import Series
from fedhealth.report.page import Cell, Chart, Section, Table
from fedhealth.report.wording import counted
from fedhealth.runs.record import Run


def promise(run: Run) -> str:
    """Return what the run promises, such as `differential privacy for each patient (epsilon at most 8)`."""
    target = run.setting("privacy.epsilon")
    unit = str(run.setting("privacy.unit", "client")).replace("client", "hospital").replace("record", "study")
    if target is None:
        return "differential privacy"
    return f"differential privacy for each {unit} (epsilon at most {float(target):g})"


def privacy(run: Run) -> Section | None:
    """Show what each hospital's ledger says about this run."""
    if not run.spending:
        return None
    rows = tuple(_row(each) for each in run.spending)
    head = ("Hospital", "Epsilon spent", "Allowed", "Delta", "Noise (sigma)", "Booked", "Declined")
    table = Table("From the hospitals' privacy ledgers", head, rows)
    most = max(run.spending, key=lambda each: each.epsilon)
    lead = f"Trained with {promise(run)}; the most that a hospital spent is epsilon {most.epsilon:.2f}."
    notes = (
        "Epsilon counts everything that left the hospital: every update, and the noisy scores of the final model. "
        "Scores and losses of single rounds stayed there.",
        *(("Models that were trained for comparison on this machine are not part of it.",) if run.comparison else ()),
    )
    return Section("privacy", "Privacy spent", lead, (_chart(run),), (table,), (*notes, *_audited(run)))


def _row(each: Spending) -> tuple[Cell, ...]:
    return (
        Cell(each.site),
        Cell(f"{each.epsilon:.3f}", f"for each {each.unit}"),
        Cell("–" if each.target is None else f"{each.target:g}"),
        Cell(f"{each.delta:.2g}"),
        Cell(f"{each.sigma:.3g}"),
        Cell(counted(each.booked, "entry")),
        Cell(str(each.declined)),
    )


def _chart(run: Run) -> Chart:
    lines = [
        Series(each.site, [0, *(n for n, _ in each.curve)], [0.0, *(e for _, e in each.curve)]) for each in run.spending
    ]
    top = max(run.spending, key=lambda each: each.epsilon)
    allowed = top.epsilon if top.target is None else top.target
    last = max(line.x[-1] for line in lines)
    limit = Series("allowed", [0, last], [allowed, allowed])
    told = f"Epsilon spent by each hospital, round by round, the final model's scores last; at most {allowed:g}."
    return Chart("Epsilon so far", told, charts.curves(limit, lines, "epsilon"))


def _audited(run: Run) -> tuple[str, ...]:
    return tuple(f"Audit: {line}." for line in run.audit)
