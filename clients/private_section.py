"""The part of a task that touches patients' data: in a private run, all of its failures look the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedhealth.errors import RequestMismatchError, SiteTaskError
from fedhealth.privacy.accounting.ledger_lock import LedgerInUseError
from fedhealth.privacy.accounting.limits import BudgetExceededError, ClockBehindLedgerError
from fedhealth.training.trainer import Trainer

_KNOWN_WITHOUT_DATA = (BudgetExceededError, ClockBehindLedgerError, LedgerInUseError, RequestMismatchError)


class PrivateTaskError(SiteTaskError):
    """A private task failed after it had touched the data.

    Args:
        dataset: name of their ledger, in which the failure counts.

    """

    def __init__(self, dataset: str) -> None:
        super().__init__("A task that uses patients' data failed.", "See the cause above in the site's own log.")
        self.dataset = dataset


@contextmanager
def private_section(trainer: Trainer) -> Iterator[None]:
    """Raise every failure inside as `PrivateTaskError` if the run is private; the site's own log shows the cause.

    A refusal of the budget, of the clock, of the ledger's lock or of the request keeps its kind: it depends on other
    bookings and requests, not on patients.

    Args:
        trainer: of the run.

    Raises:
        PrivateTaskError: whatever went wrong.

    """
    try:
        yield
    except _KNOWN_WITHOUT_DATA:
        raise
    except Exception as fault:
        if not trainer.is_private:
            raise
        raise PrivateTaskError(trainer.dataset) from fault
