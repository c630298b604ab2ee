"""Bugs that break privacy, planted at run time: does the audit catch each, and is right code never blamed?

`python -m benchmarks.audit_mutants [--only NAME ...] [--seeds N]` prints one line a bug, one a group, and as its last
line `20 of 20 caught, 0 of 20 false alarms`: twenty bugs that were known when the audit was written, and right code
with 20 seeds. The other groups are bugs of somebody who had not read the audit, bugs in client-level privacy, and bugs
in shares of the noise (`benchmarks.mutants`). The subject is one hospital with several studies a patient, images left
out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.mutants.clients import CLIENTS
from benchmarks.mutants.known import MUTANTS
from benchmarks.mutants.shares import SHARES, audit_shares
from benchmarks.mutants.strangers import STRANGERS
from benchmarks.mutants.subject import (
    Planter,
    audit_client,
    audit_subject,
    clear_caches,
    list_failures,
)
from fedhealth.privacy.auditing.release_checks import AuditFinding

RIGHT: dict[str, dict[str, Any]] = {
    "tower": {"clipping": "tower"},
    "automatic": {"clipping": "automatic"},
    "a bound of 2": {"max_grad_norm": 2.0},
    "record": {"unit": "record"},
}
"""Settings of right code beside the subject's own."""

Audit = Callable[..., tuple[AuditFinding, ...]]


@contextmanager
def plant_mutant(planter: Planter) -> Iterator[None]:
    """Plant one bug for the time of the context."""
    clear_caches()
    try:
        with planter():
            yield
    finally:
        clear_caches()


def main() -> None:
    """Plant, audit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of bugs, of any group")
    parser.add_argument("--seeds", type=int, default=20, help="audits of right code")
    options = parser.parse_args()
    torch.set_num_threads(1)

    def count_caught(bugs: Mapping[str, tuple[Planter, Mapping[str, Any]]], audit: Audit) -> str:
        chosen = {name: bug for name, bug in bugs.items() if not options.only or name in options.only}
        return f"{sum(_is_caught(name, *bug, audit) for name, bug in chosen.items())} of {len(chosen)}"

    print(f"{count_caught(STRANGERS, audit_subject)} caught that strangers planted", flush=True)
    print(f"{count_caught(_add_settings(CLIENTS), audit_client)} caught in client-level privacy", flush=True)
    print(f"{count_caught(_add_settings(SHARES), audit_shares)} caught in shared noise", flush=True)
    for name, settings in RIGHT.items():
        if failures := list_failures(audit_subject(**settings)):
            print(f"right code, {name}: {failures}", flush=True)
    alarms = sum(_is_blamed(seed) for seed in range(options.seeds))
    caught = count_caught(_add_settings(MUTANTS), audit_subject)
    print(f"{caught} caught, {alarms} of {options.seeds} false alarms")


def _add_settings(bugs: Mapping[str, Planter]) -> dict[str, tuple[Planter, Mapping[str, Any]]]:
    return {name: (planter, {}) for name, planter in bugs.items()}


def _is_caught(name: str, planter: Planter, settings: Mapping[str, Any], audit: Audit) -> bool:
    started = time.process_time()
    with plant_mutant(planter):
        failures = list_failures(audit(**settings))
    print(f"{name:38} {failures[0] if failures else 'NOT CAUGHT'}  ({time.process_time() - started:.1f} s)", flush=True)
    return bool(failures)


def _is_blamed(seed: int) -> bool:
    """Return whether an audit of right code fails, by patient or by client."""
    failures = list_failures((*audit_subject(seed), *audit_client(seed)))
    if failures:
        print(f"right code, seed {seed}: {failures}", flush=True)
    return bool(failures)


if __name__ == "__main__":
    main()
