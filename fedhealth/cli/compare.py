"""`fedhealth compare`: show several runs, or the runs of a sweep, in one table and on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.cli.json_output import print_json
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.privacy_text import format_guarantee

if TYPE_CHECKING:
    from fedhealth.report.run_comparison import RunComparison
    from fedhealth.runs.guarantee import PrivacyGuarantee

PAGE, TABLE = "compare.html", "compare.csv"


def run_compare(folders: Sequence[Path], to: Path | None = None, as_json: bool = False) -> None:
    """Print the table of the runs; write a page and a CSV file.

    Args:
        folders: run directories, or folders that contain them.
        to: folder of the page and the CSV file; None takes the only folder given, or the working directory.
        as_json: print the rows as JSON instead, and write nothing unless `to` is given.

    Raises:
        ConfigError: one of the folders contains no run.

    """
    from fedhealth.report.run_comparison import load_comparison

    found = load_comparison(folders)
    if as_json:
        print_json(found.rows)
    else:
        _print_table(found)
    if to or not as_json:
        place = to or (folders[0] if len(folders) == 1 else Path())
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(place / TABLE, found.csv.encode())
        write_atomic(place / PAGE, found.page.encode())
        Console(stderr=as_json).print(f"Page: {(place / PAGE).resolve().as_uri()}", soft_wrap=True)


def _print_table(found: RunComparison) -> None:
    """Print the table, one sentence about it, and what the best run gains."""
    from fedhealth.report.wording import format_estimate

    console = Console()
    console.print(_build_table(found.entries))
    console.print(found.summary, highlight=False, markup=False, soft_wrap=True)
    for each in found.differences:
        paired = "" if each.paired else " (not paired)"
        line = f"  over {each.other.label} it gains {format_estimate(each.gain, sign=True)}{paired}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _format_privacy(found: PrivacyGuarantee | None) -> str:
    if found is None:
        return "none"
    return format_guarantee(found.epsilon, found.delta, found.noise_multiplier, found.unit)


def _build_table(found: Sequence) -> Table:  # type: ignore[type-arg] # the entries' module is imported late
    from fedhealth.report.wording import format_bytes, format_estimate
    from fedhealth.runs.table import find_pareto_front

    best = find_pareto_front(found)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("Run", "Validation AUROC", "Test AUROC", "Privacy", "Traffic", ""):
        table.add_column(column, overflow="fold")
    for entry in found:
        standing = ("Pareto" if entry in best else "") if entry.state == "completed" else entry.state
        spent = _format_privacy(entry.guarantee)
        traffic = format_bytes(entry.traffic) if entry.traffic else ""
        table.add_row(
            entry.label, format_estimate(entry.validation), format_estimate(entry.test), spent, traffic, standing
        )
    return table
