"""`fedhealth compare`: several runs, or the runs of a sweep, in one table and on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.utils.atomic_io import write_atomic

PAGE, TABLE = "compare.html", "compare.csv"


def run_compare(folders: Sequence[Path], to: Path | None) -> None:
    """Print the table of the runs; leave a page and a CSV.

    Args:
        folders: run directories, or folders that hold some.
        to: where the page goes; None takes the only folder given, or the working directory.

    Raises:
        ConfigError: there is no run in one of them.

    """
    from fedhealth.report.render import render_page
    from fedhealth.report.sweep_page import chosen, differences_section, page_of, summary
    from fedhealth.report.wording import interval
    from fedhealth.runs.paired_bootstrap import differences
    from fedhealth.runs.table import as_csv, entries

    found = entries(folders)
    console, best = Console(), chosen(found)
    gains = differences(best, [entry for entry in found if entry is not best]) if best else []
    console.print(_table(found))
    console.print(summary(found), highlight=False, markup=False, soft_wrap=True)
    for each in gains:
        paired = "" if each.paired else " (not paired)"
        line = f"  over {each.other.label} it gains {interval(each.gain, sign=True)}{paired}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    further = [shown for shown in [differences_section(best, gains) if best else None] if shown]
    place = to or (folders[0] if len(folders) == 1 else Path())
    place.mkdir(parents=True, exist_ok=True)
    write_atomic(place / TABLE, as_csv(found).encode())
    write_atomic(place / PAGE, render_page(lambda: page_of(found, further)).encode())
    console.print(f"Page: {(place / PAGE).resolve().as_uri()}", soft_wrap=True)


def _table(found: Sequence) -> Table:  # type: ignore[type-arg] # the entries' module is imported late
    from fedhealth.report.wording import interval, size
    from fedhealth.runs.table import pareto

    best = pareto(found)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("Run", "Validation AUROC", "Test AUROC", "Epsilon", "Traffic", ""):
        table.add_column(column, overflow="fold")
    for entry in found:
        standing = ("Pareto" if entry in best else "") if entry.state == "completed" else entry.state
        spent = "none" if math.isinf(entry.epsilon) else f"{entry.epsilon:.3g}"
        traffic = size(entry.traffic) if entry.traffic else ""
        table.add_row(entry.label, interval(entry.validation), interval(entry.test), spent, traffic, standing)
    return table
