"""Implementation of `fedhealth site budget`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.cli.json_output import print_json
from fedhealth.cli.prompts import print_lines
from fedhealth.cli.site_run import load_lifetime_delta
from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.privacy.accounting.ledger import read_ledger_digest, verify_ledger
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.privacy.accounting.spending import (
    compute_dataset_spending,
    compute_reserved_epsilon,
    iter_run_spending,
)
from fedhealth.site.home import SiteHome
from fedhealth.utils.privacy_text import (
    format_delta,
    format_guarantee,
    format_local_epsilon,
    format_noise_multiplier,
    format_unit,
)


def run_budget(folder: Path, delta: float | None, verify: bool, as_json: bool) -> None:
    """Print what each run spent, what all of them spent together, and on request each ledger's digest.

    Args:
        folder: a site's folder, or a run directory with several sites.
        delta: at which epsilon is computed; None takes each run's own.
        verify: whether to print the length and digest of each ledger, too.
        as_json: print JSON, for programs.

    Raises:
        ConfigError: there is no such folder, or delta is out of range.
        PrivacyError: there is no ledger, or one was modified.

    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder.", "Give a site's folder or a run directory.")
    if delta is not None and not 0 < delta < 1:
        raise ConfigError(f"--delta {delta} is not between 0 and 1.", "Use 1e-6, or less for many patients.")
    found = find_ledgers(folder)
    if not found:
        raise PrivacyError(f"There is no privacy ledger in {folder}.", "The first private run creates it.")
    total_delta = delta or load_lifetime_delta(SiteHome(folder))
    if as_json:
        datasets = [_collect_dataset(site, path, total_delta) for site, path in found]
        print_json({"runs": list(iter_run_spending(folder, delta)), "datasets": datasets})
        return
    console = Console()
    console.print(_build_spending_table(folder, delta))
    for site, path in found:
        print_lines(console, _describe_total(site, path, total_delta), *(_describe_chain(site, path) if verify else ()))


def _build_spending_table(folder: Path, delta: float | None) -> Table:
    table = Table(title="Privacy spent", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("Hospital/data set", "Run", "Unit"):
        table.add_column(name, overflow="fold")
    for name in ("Epsilon", "Delta", "Noise multiplier", "Booked", "Failed", "Retried", "Declined"):
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    for each in iter_run_spending(folder, delta):
        epsilon = f"{each.epsilon:.3f}" + ("" if each.target is None else f" of {each.target:g}")
        epsilon += f" (local {each.local_epsilon:.3f})" if each.shares > 1 else ""
        numbers = (
            epsilon,
            format_delta(each.delta),
            format_noise_multiplier(each.noise_multiplier),
            *map(str, (each.booked_count, each.failed_count, each.retried_count, each.declined_count)),
        )
        table.add_row(f"{each.site}/{each.dataset}", each.run, format_unit(each.unit), *numbers)
    return table


def _describe_total(site: str, path: Path, delta: float | None) -> str:
    total = compute_dataset_spending(site, path, delta)
    spent = format_guarantee(total.epsilon, total.delta, total.noise_multiplier, total.unit, digits=4)
    said = f"{site}, {path.stem}: all runs together spent {spent} or more"
    if total.local_epsilon is not None:
        said += f"; {format_local_epsilon(total.local_epsilon, total.delta)}"
    with_kept, until = compute_reserved_epsilon(path, total.delta)
    if until:
        lapses = datetime.fromtimestamp(until).astimezone().strftime("%Y-%m-%d %H:%M")
        said += f"; {with_kept:.4g} at the same delta including reservations of sweeps until {lapses}"
    return said


def _describe_chain(site: str, path: Path) -> Iterator[str]:
    entries = verify_ledger(path)
    yield f"{site}, {path.stem}: {len(entries)} entries, hash chain intact, digest {read_ledger_digest(path)}"


def _collect_dataset(site: str, path: Path, delta: float | None) -> dict[str, Any]:
    """Return what all runs together spent and reserved, and the length and digest of the ledger."""
    total = compute_dataset_spending(site, path, delta)
    with_reserved, until = compute_reserved_epsilon(path, total.delta)
    reserved = {"epsilon_with_reservations": with_reserved, "reserved_until": until or None}
    return {**asdict(total), **reserved, "entries": len(verify_ledger(path)), "digest": read_ledger_digest(path)}
