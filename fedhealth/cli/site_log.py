"""Work behind `fedhealth site audit show` and `export`."""

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

from fedhealth.cli.asking import say
from fedhealth.errors import ConfigError
from fedhealth.site import audit_log
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy
from fedhealth.utils.private_files import write_secret

_OWN = ("number", "time", "event")  # of every entry; the rest depends on the event


def run_show(last: int, folder: Path | None) -> None:
    """Print the last entries."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("#", "Time (UTC)", "Event"):
        table.add_column(name, no_wrap=True)
    table.add_column("What", overflow="fold", ratio=1)
    for entry in audit_log.verify(SiteHome.find(folder).audit)[-last:]:
        table.add_row(str(entry["number"]), _time(entry), Text(str(entry["event"])), Text(_rest(entry)))
    Console().print(table)


def run_export(file: Path, folder: Path | None) -> None:
    """Write the log to a file.

    Raises:
        ConfigError: neither .json nor .csv, or no folder for it.
        TrustError: the log was edited, cut or damaged.

    """
    home = SiteHome.find(folder)
    if file.suffix not in (".json", ".csv") or not file.parent.is_dir():
        raise ConfigError(f"{file} cannot be written.", "Name a .json or .csv file in a folder that exists.")
    if file.suffix == ".json":
        digest = audit_log.export(home.audit, file, load_policy(home).name, home.identity())
    else:
        digest = audit_log.digest_of(home.audit)
        write_secret(file, _table(audit_log.verify(home.audit)))
    say(Console(), f"{file}: the log up to digest {digest}")


def _table(entries: audit_log.Entries) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*_OWN, "fields"])
    for entry in entries:
        writer.writerow([entry["number"], _time(entry), entry["event"], _rest(entry)])
    return text.getvalue().encode()


def _time(entry: Mapping[str, Any]) -> str:
    return datetime.fromtimestamp(float(entry["time"]), UTC).strftime("%Y-%m-%d %H:%M:%S")


def _rest(entry: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in entry.items() if name not in _OWN}, sort_keys=True)
