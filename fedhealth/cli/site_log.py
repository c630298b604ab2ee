"""Implementation of `fedhealth site audit show` and `export`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedhealth.cli.json_output import print_json
from fedhealth.cli.prompts import check_target, print_lines
from fedhealth.site import audit_log
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy
from fedhealth.utils.private_files import write_private_file

_COMMON_FIELDS = ("number", "time", "event")  # of every entry; the other fields depend on the event


def run_show(last: int, folder: Path | None, as_json: bool) -> None:
    """Print the last entries."""
    entries = audit_log.verify_log(SiteHome.find(folder).audit)[-last:]
    if as_json:
        print_json(list(entries))
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("#", "Time (UTC)", "Event"):
        table.add_column(name, no_wrap=True)
    table.add_column("Fields", overflow="fold", ratio=1)
    for entry in entries:
        table.add_row(str(entry["number"]), _format_time(entry), Text(str(entry["event"])), Text(_format_fields(entry)))
    Console().print(table)


def run_export(file: Path, folder: Path | None) -> None:
    """Write the log to a file.

    Raises:
        ConfigError: the name ends neither in .json nor in .csv, or its folder does not exist.
        TrustError: the log was edited, truncated or damaged.

    """
    home = SiteHome.find(folder)
    check_target(file, (".json", ".csv"))
    if file.suffix == ".json":
        digest = audit_log.export_log(home.audit, file, load_policy(home).name, home.load_identity_key())
    else:
        digest = audit_log.get_log_digest(home.audit)
        write_private_file(file, _entries_to_csv(audit_log.verify_log(home.audit)))
    print_lines(Console(), f"{file}: audit log up to digest {digest}")


def _entries_to_csv(entries: audit_log.AuditEntries) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*_COMMON_FIELDS, "fields"])
    for entry in entries:
        writer.writerow([entry["number"], _format_time(entry), entry["event"], _format_fields(entry)])
    return text.getvalue().encode()


def _format_time(entry: Mapping[str, Any]) -> str:
    return datetime.fromtimestamp(float(entry["time"]), UTC).strftime("%Y-%m-%d %H:%M:%S")


def _format_fields(entry: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in entry.items() if name not in _COMMON_FIELDS}, sort_keys=True)
