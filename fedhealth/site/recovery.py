"""`fedhealth site recover`: put a machine that was restored from an older copy, or whose books are damaged, in order.

The order of the steps makes every interruption harmless: run the command again. The site declines until the last one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from fedhealth.consortium.identity import get_secrets_folder
from fedhealth.errors import SecureAggregationError
from fedhealth.privacy.accounting.ledger_folder import find_ledgers, get_score_release_path
from fedhealth.privacy.accounting.ledger_recovery import LedgerRecovery, recover_ledger, use_up_ledger
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.secagg.client.contributor_book import CONTRIBUTORS_FOLDER, ContributorBook
from fedhealth.secagg.client.journal import Journal, load_journal, save_journal
from fedhealth.secagg.client.statement_book import StatementBook
from fedhealth.secagg.protocol.statement import StateStatement, unseal_record
from fedhealth.secagg.protocol.store import FileStore
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.job_history import JobHistory
from fedhealth.site.policy import Policy, load_policy
from fedhealth.site.receive_study import suspend_approvals
from fedhealth.site.state_history import StateHistory, load_statement_book, parse_record
from fedhealth.utils.hash_chain import salvage_chain

_BURNED = 2**62  # an attempt number above every real one


@dataclass(frozen=True)
class RecoveryOutcome:
    """What a recovery did.

    Attributes:
        newest: the own statement that shows what was lost; None if none is known.
        ledgers: what was done to each.
        audit_copy: the damaged audit log as it was found; None if its chain was intact.

    """

    newest: StateStatement | None
    ledgers: tuple[LedgerRecovery, ...]
    audit_copy: Path | None


def open_home_book(home: SiteHome, policy: Policy, *, create: bool = False) -> StatementBook:
    """Return the book of a hospital's own statements; without `create` nothing is written where there is none.

    Raises:
        TrustError: its identity key is missing.
        SecureAggregationError: no members are approved.

    """
    return load_statement_book(policy.name, home.state, home.audit, home.load_identity_key(), create=create)


def recover_site(home: SiteHome) -> RecoveryOutcome:
    """Book what the site may have released since its backup, repair its chains, and let it take part again.

    Raises:
        ConfigError: the site is running.
        PrivacyError: a ledger is in use.

    """
    with DaemonState(home).lock():
        policy = load_policy(home)
        book = open_home_book(home, policy, create=True)
        newest, audit_copy = book.find_lost_statement(), salvage_chain(home.audit)
        audit = AuditLog(home.audit)
        ledgers = _recover_ledgers(home, policy, newest)
        _end_runs(home, policy, newest)
        ContributorBook(FileStore(home.state / CONTRIBUTORS_FOLDER)).mark_incomplete()
        suspend_approvals(home)
        highest = StateHistory(home.state, home.audit).find_last_counter()
        audit.write("recovered", **_describe_recovery(newest, ledgers, audit_copy))
        book.finish_recovery(newest.counter if newest is not None else 0, highest)
    return RecoveryOutcome(newest, ledgers, audit_copy)


def is_record_sealed(home: SiteHome, newest: StateStatement | None) -> bool:
    """Return whether a statement's record was sealed with another key than the present one, and cannot be read."""
    return newest is not None and unseal_record(home.load_identity_key(), newest) is None


def _recover_ledgers(home: SiteHome, policy: Policy, newest: StateStatement | None) -> tuple[LedgerRecovery, ...]:
    """Book what the ledgers have lost; all of their budgets if the newest statement's record cannot be read."""
    limits = EpsilonLimits(policy.limits.delta, lifetime_epsilon=policy.limits.lifetime_epsilon)
    limits = replace(limits, lifetime_delta=policy.limits.delta)
    found = {path.stem for _, path in find_ledgers(home.state)}
    content = unseal_record(home.load_identity_key(), newest) if newest is not None else None
    if newest is not None and content is None:  # also ledgers whose files are gone
        names = sorted(found | {source.dataset for source in policy.data.values()})
        return tuple(use_up_ledger(home.state, name, limits) for name in names)
    records = {record.dataset: record for record in parse_record(content)} if content is not None else {}
    latest = (newest.run, newest.counter) if newest is not None else ("", 0)
    names = sorted(found | set(records))
    return tuple(recover_ledger(home.state, name, records.get(name), limits, latest) for name in names)


def _end_runs(home: SiteHome, policy: Policy, newest: StateStatement | None) -> None:
    """Forget all keys; only the run of the newest statement may go on, above its latest exchange."""
    folder, history = home.state / "secagg", JobHistory(home)
    going_on = newest.run if newest is not None else ""
    known = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for run in sorted(known | {going_on} - {""}):
        shutil.rmtree(get_secrets_folder(run, policy.name, home.state), ignore_errors=True)
        if run == going_on and newest is not None:
            _burn_exchanges(FileStore(folder / run), newest.exchange)
            # it may be in opened sums whose contributors are forgotten: the next one is drawn and booked anew
            get_score_release_path(home.state, run).unlink(missing_ok=True)
        else:
            history.mark_ended(run)
    history.refuse_unknown_jobs(going_on)


def _burn_exchanges(store: FileStore, exchange: int) -> None:
    """Let a run's journal refuse every exchange up to this one."""
    try:
        journal = load_journal(store)
    except SecureAggregationError:  # damaged
        journal = Journal()
    highest = max(journal.exchange, exchange)
    save_journal(store, Journal(epoch=journal.epoch, peers=journal.peers, exchange=highest, attempt=_BURNED))


def _describe_recovery(
    newest: StateStatement | None, ledgers: tuple[LedgerRecovery, ...], audit_copy: Path | None
) -> dict[str, object]:
    lost = newest.heads.audit.hex() if newest is not None else ""
    return {
        "statement": newest.counter if newest is not None else 0,
        "run": newest.run if newest is not None else "",
        "exchange": newest.exchange if newest is not None else 0,
        "lost_audit_head": lost,
        "damaged_audit_log": audit_copy.name if audit_copy is not None else "",
        "ledgers": {
            each.dataset: {
                "booked_runs": list(each.booked),
                "life_budget_used_up": each.is_used_up,
                "damaged_copy": each.damaged_copy.name if each.damaged_copy is not None else "",
            }
            for each in ledgers
        },
    }
