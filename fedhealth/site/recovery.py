"""`fedhealth site recover`: put a machine that was restored from an older copy, or whose books are damaged, in order.

It books what every statement in hand tells: those that others have shown, the one beside the audit log, the latest of
the book. Where the audit log names a line of a ledger that neither the ledger nor one of these statements has, nobody
knows what was lost there, and the life budget counts as used up.

The order of the steps makes every interruption harmless: run the command again. The site declines until the last one.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedhealth.consortium.identity import get_secrets_folder
from fedhealth.errors import SecureAggregationError
from fedhealth.privacy.accounting.ledger_folder import find_ledgers, get_ledger_path, get_score_release_path
from fedhealth.privacy.accounting.ledger_recovery import LedgerRecovery, LostCopy, recover_ledger, use_up_ledger
from fedhealth.privacy.accounting.limits import EpsilonLimits
from fedhealth.secagg.client.contributor_book import CONTRIBUTORS_FOLDER, ContributorBook
from fedhealth.secagg.client.journal import Journal, load_journal, save_journal
from fedhealth.secagg.client.statement_book import StatementBook
from fedhealth.secagg.protocol.statement import StateStatement, digest_statement, unseal_record
from fedhealth.secagg.protocol.store import FileStore
from fedhealth.site.audit_log import AuditLog, verify_log
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.job_history import JobHistory, RunEnd, find_ended_runs
from fedhealth.site.policy import Policy, load_policy
from fedhealth.site.receive_study import suspend_approvals
from fedhealth.site.state_history import StateHistory, load_statement_book, parse_record
from fedhealth.utils.hash_chain import START, read_sound_hashes, salvage_chain

_BURNED = 2**62  # an attempt number above every real one


@dataclass(frozen=True)
class RecoveryOutcome:
    """What a recovery did.

    Attributes:
        newest: the own statement with the highest number; None if none is known.
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
        lost, newest = book.find_lost_statements(), book.find_newest_statement()
        unexplained = find_unexplained_ledgers(home, lost)
        audit_copy = salvage_chain(home.audit)
        ledgers = _recover_ledgers(home, policy, lost, unexplained)
        _end_runs(home, policy, (*lost, newest) if newest is not None else ())
        ContributorBook(FileStore(home.state / CONTRIBUTORS_FOLDER)).mark_incomplete()
        suspend_approvals(home)
        AuditLog(home.audit).write("recovered", **_describe_recovery(newest, lost, ledgers, audit_copy))
        book.finish_recovery(lost)
    return RecoveryOutcome(newest, ledgers, audit_copy)


def find_sealed_statement(home: SiteHome, lost: Sequence[StateStatement]) -> StateStatement | None:
    """Return a statement whose record was sealed with another key than the present one, and cannot be read."""
    identity = home.load_identity_key()
    return next((each for each in lost if unseal_record(identity, each) is None), None)


def find_unexplained_ledgers(home: SiteHome, lost: Sequence[StateStatement]) -> tuple[str, ...]:
    """Return the data sets of whose ledgers the audit log names a line that neither ledger nor statements have."""
    logged, copies = StateHistory(home.state, home.audit).find_last_logged(), _list_copies(home, lost)
    return tuple(
        name
        for name, head in sorted(logged.ledgers.items() if logged is not None else ())
        if head not in (START, *read_sound_hashes(get_ledger_path(home.state, name)))
        and not any(copy.record is not None and copy.record.holds_line(head) for copy in copies.get(name, ()))
    )


def _list_copies(home: SiteHome, lost: Sequence[StateStatement]) -> dict[str, list[LostCopy]]:
    """Return the lost copies of each ledger; without those of statements whose record cannot be read."""
    identity, copies = home.load_identity_key(), dict[str, list[LostCopy]]()
    for each in lost:
        digest, known = digest_statement(each.to_bytes()).hex(), frozenset(name.hex() for name in each.known)
        content = unseal_record(identity, each)
        for record in parse_record(content) if content is not None else ():
            copies.setdefault(record.dataset, []).append(LostCopy(digest, known, record))
    return copies


def _recover_ledgers(
    home: SiteHome, policy: Policy, lost: Sequence[StateStatement], unexplained: Sequence[str]
) -> tuple[LedgerRecovery, ...]:
    """Book what the ledgers have lost; all of their budgets if the record of a statement cannot be read."""
    limits = EpsilonLimits(policy.limits.delta, lifetime_epsilon=policy.limits.lifetime_epsilon)
    limits = replace(limits, lifetime_delta=policy.limits.delta)
    found, copies = {path.stem for _, path in find_ledgers(home.state)}, _list_copies(home, lost)
    used_up = set(unexplained)
    if find_sealed_statement(home, lost) is not None:  # also ledgers whose files are gone
        used_up |= found | set(copies) | {source.dataset for source in policy.data.values()}
    return tuple(
        use_up_ledger(home.state, name, limits)
        if name in used_up
        else recover_ledger(home.state, name, copies.get(name, []), limits)
        for name in sorted(found | set(copies) | used_up)
    )


def _end_runs(home: SiteHome, policy: Policy, lost: Sequence[StateStatement]) -> None:
    """Forget all keys; only the run of the newest statement may go on, above its latest exchange."""
    folder, history = home.state / "secagg", JobHistory(home)
    going_on = max(lost, key=lambda each: each.counter).run if lost else ""
    known = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    logged = {str(entry["run"]) for entry in verify_log(home.audit) if entry["event"] == "ended"}
    ended, audit = find_ended_runs(home.state) | logged, AuditLog(home.audit)
    for run in sorted(known | {going_on} - {""}):
        shutil.rmtree(get_secrets_folder(run, policy.name, home.state), ignore_errors=True)
        if run == going_on:
            _burn_exchanges(FileStore(folder / run), max(each.exchange for each in lost if each.run == run))
            # it may be in opened sums whose contributors are forgotten: the next one is drawn and booked anew
            get_score_release_path(home.state, run).unlink(missing_ok=True)
        else:
            history.mark_ended(run)
            if run not in ended:
                audit.write("ended", run=run, by=str(RunEnd.recovery))
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
    newest: StateStatement | None,
    lost: Sequence[StateStatement],
    ledgers: tuple[LedgerRecovery, ...],
    audit_copy: Path | None,
) -> dict[str, object]:
    head = newest.heads.audit.hex() if newest is not None else ""
    return {
        "statement": newest.counter if newest is not None else 0,
        "run": newest.run if newest is not None else "",
        "exchange": newest.exchange if newest is not None else 0,
        "lost_audit_head": head,
        "evidence": [digest_statement(each.to_bytes()).hex() for each in lost],
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
