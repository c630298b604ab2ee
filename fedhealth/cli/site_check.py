"""Implementation of `fedhealth site check` and `fedhealth doctor`."""

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
from fedhealth.site.check.base import CheckResult, CheckStatus
from fedhealth.site.check.check_site import check_site
from fedhealth.site.check.installation import check_installation
from fedhealth.site.home import SiteHome

_STYLE = {CheckStatus.PASS: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "bold red"}


def run_check(overrides: list[str], folder: Path | None, as_json: bool) -> None:
    """Check a site.

    Raises:
        NotReadyError: a check failed.

    """
    _run_checks(check_site(SiteHome.find(folder), tuple(overrides)), as_json)


def run_doctor(as_json: bool) -> None:
    """Check the installation only.

    Raises:
        NotReadyError: a check failed.

    """
    _run_checks(check_installation(), as_json)


def _run_checks(checks: Iterable[CheckResult], as_json: bool) -> None:
    console, found = Console(), []
    with Console(stderr=True).status("Checking") as status:
        for check in checks:
            found.append(check)
            status.update(f"Checking, after {check.name}")
    failures = [check.name for check in found if check.status is CheckStatus.FAIL]
    if as_json:
        print(json.dumps({"ready": not failures, "checks": [asdict(check) for check in found]}, indent=1))
    else:
        console.print(_build_table(found))
    if failures:
        raise NotReadyError(f"{len(failures)} check(s) failed: {', '.join(failures)}.", "Fix them in this order.")


def _build_table(found: list[CheckResult]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Check", overflow="fold")
    table.add_column("Result", no_wrap=True)
    table.add_column("Finding, and how to fix it", overflow="fold", ratio=1)
    for check in found:
        finding = Text(check.finding)
        if check.fix:
            finding.append(f"\n{check.fix}", style="cyan")
        table.add_row(Text(check.name), Text(check.status, style=_STYLE[check.status]), finding)
    return table
