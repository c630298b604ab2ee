"""What all runs of a study have spent and reserved on a data set, and whether more events would exceed its total.

The ledger alone says which runs are a study's: their reservations and bookings name it. So the total holds under the
ledger's lock, whatever a lead orders in which sequence, and whichever process answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon, compute_epsilon_rdp
from fedhealth.privacy.accounting.ledger_entry import SPENT_KINDS, LedgerEntry
from fedhealth.privacy.accounting.reservations import Reservation
from fedhealth.privacy.accounting.study_share import StudyShare
from fedhealth.utils.privacy_text import format_epsilon


def get_study_events(entries: Sequence[LedgerEntry], study: StudyShare) -> list[PrivacyEvent]:
    """Return what a study's runs have booked, in the runs' own unit.

    Events of lines that a restored machine has lost count for every study, unless the ledger still says whose they are.
    """
    own = _find_own_runs(entries, study)
    known = {entry.run for entry in entries if entry.sweep}
    return [
        entry.mechanism
        for entry in entries
        if entry.kind in SPENT_KINDS and (entry.run in own or (entry.kind == "lost" and entry.run not in known))
    ]


def list_spending_runs(entries: Sequence[LedgerEntry], study: StudyShare) -> tuple[str, ...]:
    """Return the runs of a study that have booked something, the oldest first."""
    own = _find_own_runs(entries, study)
    return tuple(dict.fromkeys(entry.run for entry in entries if entry.kind in SPENT_KINDS and entry.run in own))


def _find_own_runs(entries: Sequence[LedgerEntry], study: StudyShare) -> set[str]:
    return {entry.run for entry in entries if entry.sweep == study.key}


def find_study_excess(
    entries: Sequence[LedgerEntry],
    reservations: Sequence[Reservation],
    events: Sequence[PrivacyEvent],
    study: StudyShare,
    run: str,
) -> str:
    """Return by how much more events of a run would exceed the total of its study; empty if they do not.

    Args:
        entries: of the ledger.
        reservations: the active ones; those for other runs of the study count as spent.
        events: to add.
        study: of the run.
        run: its id.

    """
    others = [each for each in reservations if each.sweep == study.key and each.run != run]
    reserved = [event for each in others if not study.is_slot(each.run) for event in each.cost.events]
    return describe_excess([*get_study_events(entries, study), *reserved, *events], study)


def describe_excess(events: Sequence[PrivacyEvent], study: StudyShare) -> str:
    """Return by how much all events of a study's runs exceed its total; empty if they do not."""
    if compute_epsilon_rdp(events, study.delta) <= study.epsilon:  # never below the exact value, and faster
        return ""
    total = compute_epsilon(events, study.delta)
    if total <= study.epsilon:
        return ""
    spent, stated = (format_epsilon(each, study.delta, digits=4) for each in (total, study.epsilon))
    return f"the runs of the study {study.name} would spend {spent}, it states {stated}"
