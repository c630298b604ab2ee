"""Implementation of `fedhealth site recover`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fedhealth.cli.prompts import print_lines, require_confirmation
from fedhealth.privacy.accounting.ledger_recovery import LedgerRecovery
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy
from fedhealth.site.recovery import (
    RecoveryOutcome,
    find_sealed_statement,
    find_unexplained_ledgers,
    open_home_book,
    recover_site,
)


def run_recover(folder: Path | None, yes: bool) -> None:
    """Show what is known, ask for confirmation, recover, and print what was done.

    Raises:
        ConfigError: the site is running.
        TrustError: the user does not confirm.

    """
    home, console = SiteHome.find(folder), Console()
    book = open_home_book(home, load_policy(home))
    lost, newest = book.find_lost_statements(), book.find_newest_statement()
    if newest is None:
        print_lines(
            console,
            "No statement of this site is known: what is lost cannot be seen. Start the site once before you recover,",
        )
        print_lines(console, "so that the lead and the other hospitals can show what they know.")
    else:
        shown = f"number {newest.counter}, run {newest.run}, exchange {newest.exchange}"
        print_lines(console, f"The newest statement of this site that is known: {shown}.")
    print_lines(
        console,
        "What it has booked since the copy, and what one more request of each run may have booked, counts as spent.",
        "Damaged files are kept beside the repaired ones. Runs that were going on here end, except that one.",
    )
    if (unexplained := find_unexplained_ledgers(home, lost)) != ():
        print_lines(
            console,
            f"The audit log knows of later bookings on {', '.join(unexplained)}, but nobody has shown what they were:",
            "the whole life budget of these data sets will count as spent. Start the site once first, so that the lead",
            "and the other hospitals can show what they know.",
        )
    if find_sealed_statement(home, lost) is not None:
        print_lines(
            console,
            "Its record of the ledgers was sealed with another identity key and cannot be read: the whole life budget",
            "of every data set will count as spent. If a backup holds the earlier key, put it back into keys/ first.",
        )
    if not yes:
        require_confirmation("Recover this site?")
    _print_outcome(console, recover_site(home))


def _print_outcome(console: Console, outcome: RecoveryOutcome) -> None:
    if outcome.audit_copy is not None:
        print_lines(console, f"The audit log was damaged; as it was found: {outcome.audit_copy}")
    for each in outcome.ledgers:
        print_lines(console, f"{each.dataset}: {_describe_ledger(each)}")
    print_lines(console, "Recovered. Tell the lead, then start the site. See `fedhealth site budget`.")


def _describe_ledger(recovery: LedgerRecovery) -> str:
    copy = f"; as it was found: {recovery.damaged_copy}" if recovery.damaged_copy is not None else ""
    if recovery.is_used_up:
        return f"what is lost is not known, so the whole life budget counts as spent{copy}"
    runs = ", ".join(recovery.booked)
    return f"lost events of {runs} are booked as spent{copy}" if runs else f"nothing is lost{copy}"
