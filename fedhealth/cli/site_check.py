"""Work behind `fedhealth site check` and `fedhealth doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedhealth.errors import NotReadyError
from fedhealth.site.check.all import check_site
from fedhealth.site.check.contract import Check, Result
from fedhealth.site.check.installation import check_installation
from fedhealth.site.home import SiteHome

_STYLE = {Result.PASS: "green", Result.WARN: "yellow", Result.FAIL: "bold red"}


def run_check(words: list[str], folder: Path | None, as_json: bool) -> None:
    """Check a site.

    Raises:
        NotReadyError: a check failed.

    """
    _run(check_site(SiteHome.find(folder), tuple(words)), as_json)


def run_doctor(as_json: bool) -> None:
    """Check the installation alone.

    Raises:
        NotReadyError: a check failed.

    """
    _run(check_installation(), as_json)


def _run(checks: Iterable[Check], as_json: bool) -> None:
    console, found = Console(), []
    with Console(stderr=True).status("Checking") as status:
        for check in checks:
            found.append(check)
            status.update(f"Checking, after {check.name}")
    failures = [check.name for check in found if check.result is Result.FAIL]
    if as_json:
        print(json.dumps({"ready": not failures, "checks": [asdict(check) for check in found]}, indent=1))
    else:
        console.print(_table(found))
    if failures:
        raise NotReadyError(f"{len(failures)} check(s) failed: {', '.join(failures)}.", "Fix them from the top down.")


def _table(found: list[Check]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Check", overflow="fold")
    table.add_column("Result", no_wrap=True)
    table.add_column("Seen, and how to fix it", overflow="fold", ratio=1)
    for check in found:
        seen = Text(check.seen)
        if check.fix:
            seen.append(f"\n{check.fix}", style="cyan")
        table.add_row(Text(check.name), Text(check.result, style=_STYLE[check.result]), seen)
    return table
