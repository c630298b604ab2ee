"""Implementation of `fedhealth site runs`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedhealth.cli.json_output import print_json
from fedhealth.cli.prompts import check_target, print_lines
from fedhealth.site.audit_log import get_log_digest
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy
from fedhealth.site.run_history import find_site_run, read_run_history
from fedhealth.site.run_page import render_run_record
from fedhealth.site.run_text import build_processing_entry, describe_run, dump_record
from fedhealth.site.sign_register import sign_register
from fedhealth.utils.private_files import write_private_file
from fedhealth.utils.time_text import format_time

_COLUMNS = ("Began", "Run", "Study", "Outcome", "Left", "Epsilon booked")


def run_list(as_json: bool, folder: Path | None) -> None:
    """Print all runs."""
    records, gaps = read_run_history(SiteHome.find(folder))
    if as_json:
        print_json([dump_record(each) for each in records])
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, overflow="fold")
    for each in records:
        booked = ", ".join(f"{spent.dataset} {spent.epsilon:.3f}" for spent in each.spending)
        study = each.study.label if each.study else ""
        left = f"{len(each.sent)} replies, {each.bytes_sent:,} bytes"
        cells = (format_time(each.started), each.run, study, each.outcome, left, booked)
        table.add_row(*map(Text, cells))
    Console().print(table if records else "The audit log names no run.")
    _print_gaps(gaps)


def _print_gaps(gaps: Sequence[str]) -> None:
    print_lines(Console(), *(f"WARNING: {gap}" for gap in gaps))


def run_show_record(run: str, as_json: bool, to: Path | None, folder: Path | None) -> None:
    """Print one run's record, or write its page.

    Raises:
        ConfigError: no run or more than one has this id, or the page cannot be written.

    """
    home = SiteHome.find(folder)
    record = find_site_run(home, run)
    if to is not None:
        check_target(to, (".html",))
        page = render_run_record(record, load_policy(home).name, get_log_digest(home.audit))
        write_private_file(to, page.encode())
    if as_json:
        print_json(dump_record(record))
        return
    facts = list(describe_run(record))
    width = max(len(name) for name, _ in facts)
    print_lines(Console(), *(f"{name:<{width}}  {text}" for name, text in facts))
    if to is not None:
        print_lines(Console(), f"Page: {to.resolve().as_uri()}")


def run_export(file: Path, folder: Path | None) -> None:
    """Write the register's entries.

    Raises:
        ConfigError: the file cannot be written, or has another ending.

    """
    check_target(file, (".json", ".csv"))
    home = SiteHome.find(folder)
    site = load_policy(home).name
    records, gaps = read_run_history(home)
    entries = [build_processing_entry(each, site) for each in records]
    digest = get_log_digest(home.audit)
    if file.suffix == ".json":
        content = sign_register(entries, site, digest, home.load_identity_key())
    else:
        content = _format_csv(entries)
    write_private_file(file, content)
    _print_gaps(gaps)
    print_lines(Console(), f"{file}: {len(entries)} runs, from the audit log up to digest {digest}")


def _quote_formula(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _format_csv(entries: Sequence[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(entries[0]) if entries else ["run"])
    writer.writeheader()
    writer.writerows({name: _quote_formula(text) for name, text in entry.items()} for entry in entries)
    return text.getvalue().encode()
