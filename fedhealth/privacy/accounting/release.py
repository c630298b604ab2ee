"""The release of private words: every byte that leaves a site under privacy cites one booked event.

Words are what a site sends under privacy: a noised update and noised statistics, before masking and quantisation. The
order at a site is: book, train, store the words, record their release here, and only then send the first byte. A
booking pays for one list of words. The same words may leave once more, in another exchange or under another mask;
other words need a booking of their own.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.booking import Booking, find_bookings
from fedhealth.privacy.accounting.ledger import Ledger, verify_ledger
from fedhealth.privacy.accounting.ledger_folder import find_ledgers, get_ledger_path, get_release_key_path
from fedhealth.privacy.context import AccountingContext
from fedhealth.protocol.messages import digest_arrays
from fedhealth.types import State
from fedhealth.utils.atomic_io import create_once
from fedhealth.utils.digest import encode_parts

LOCK_WAIT = 30.0
"""How long to wait for the lock of a ledger where a release or a failure is recorded, seconds."""
_KEY_BYTES = 32


def load_release_key(folder: Path) -> bytes:
    """Return the secret key of a site's release digests, from its private folder; create it if there is none.

    Raises:
        PrivacyError: the file is damaged.

    """
    path = get_release_key_path(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    create_once(path, lambda: secrets.token_bytes(_KEY_BYTES), 0o600)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise PrivacyError(f"{path.name} is damaged", "Delete it: words that were not sent yet are computed anew.")
    return key


def digest_words(key: bytes, update: State, statistics: Mapping[str, np.ndarray]) -> str:
    """Return the keyed digest of words; without the key it tells nothing about them.

    Args:
        key: of `load_release_key`.
        update: arrays by name, before masking and quantisation.
        statistics: arrays by name that leave with it.

    """
    parts = encode_parts(b"fedhealth release 1", digest_arrays(update), digest_arrays(dict(statistics)))
    return hmac.digest(key, parts, "sha256").hex()


def record_release(
    folder: Path, dataset: str, accounting: AccountingContext, digest: str, late_rounds: Collection[int] = ()
) -> None:
    """Record that words leave the site from now on; on return it is on the disk.

    Args:
        folder: the site's private folder.
        dataset: its name.
        accounting: the run, round, purpose and exchange.
        digest: of the words.
        late_rounds: earlier rounds whose updates the words contain too; the caller has checked that the words of these
            rounds are recorded as released.

    Raises:
        PrivacyError: no booking pays for these words, or an earlier round is not spent; nothing may leave.

    """
    if not digest:
        raise PrivacyError("a release needs the digest of its words", "Nothing may leave.")
    with Ledger.open(get_ledger_path(folder, dataset), wait=LOCK_WAIT) as ledger:
        bookings = find_bookings(ledger.entries, accounting.run, accounting.purpose)
        booking = next((each for each in bookings if each.digest == digest), None)
        if booking is not None and accounting.exchange in booking.exchanges:
            return
        if booking is None:
            booking = _find_payer(bookings, accounting)
        cites = booking.cites or _find_cited_bookings(bookings, late_rounds)
        ledger.update_booking(
            "release", booking, accounting.round, exchange=accounting.exchange, digest=digest, cites=cites
        )


def is_recorded_release(folder: Path, dataset: str, run: str, purpose: str, digest: str) -> bool:
    """Return whether the ledger holds a release of these words.

    Raises:
        PrivacyError: the ledger was edited, cut or damaged.

    """
    path = get_ledger_path(folder, dataset)
    if not digest or not path.is_file():
        return False
    return any(booking.digest == digest for booking in find_bookings(verify_ledger(path), run, purpose))


def record_failure(folder: Path, run: str, datasets: Collection[str] = ()) -> int:
    """Record a failed task: every open booking of its run becomes failed, in all ledgers of a site's folder.

    To be called before an error reply leaves. It waits for the lock of a ledger.

    Args:
        folder: the site's private folder.
        run: the run's id.
        datasets: that the task may have touched. If the run has no open booking, the failure is counted in the ledgers
            of these: that a task fails may depend on the data also before anything is booked.

    Returns:
        The number of bookings that have failed now.

    Raises:
        PrivacyError: a ledger is in use for too long, or damaged.

    """
    failed = sum(_fail_bookings(path, run) for _, path in find_ledgers(folder) if _may_name_run(path, run))
    for name in sorted(set(datasets)) if not failed else ():
        with Ledger.open(get_ledger_path(folder, name), wait=LOCK_WAIT) as ledger:
            ledger.record_unbooked_failure(run)
    return failed


def _find_payer(bookings: Sequence[Booking], accounting: AccountingContext) -> Booking:
    """Return the open booking that pays for the words of a request."""
    is_training = accounting.purpose == "train"
    for booking in bookings:
        if booking.state == "open" and (not is_training or booking.rounds[-1] == accounting.round):
            return booking
    raise PrivacyError(
        f"no open booking pays for a {accounting.purpose} reply in round {accounting.round}",
        "Nothing leaves. Its words must be computed anew under a booking of their own.",
    )


def _find_cited_bookings(bookings: Sequence[Booking], late_rounds: Collection[int]) -> tuple[int, ...]:
    """Return the spent bookings of earlier rounds, by the round in which each was last tried."""
    spent = [each for each in bookings if each.state != "open"]
    for number in late_rounds:
        if all(each.rounds[-1] != number for each in spent):
            raise PrivacyError(
                f"the late update of round {number} is not paid for by a spent booking", "Leave it out; nothing leaves."
            )
    return tuple(each.number for each in spent if each.rounds[-1] in late_rounds)


def _fail_bookings(path: Path, run: str) -> int:
    with Ledger.open(path, wait=LOCK_WAIT) as ledger:
        opened = [each for each in find_bookings(ledger.entries, run) if each.state == "open"]
        for booking in opened:
            ledger.update_booking("fail", booking, booking.rounds[-1])
    return len(opened)


def _may_name_run(path: Path, run: str) -> bool:
    """Return whether a ledger may name a run; others are not opened, because another run may hold their lock."""
    return json.dumps(run).encode() in path.read_bytes()
