"""The part of a task that touches patients' data: in a private run, all of its failures look the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedhealth.errors import SiteTaskError
from fedhealth.privacy.accounting.limits import BudgetExceededError, ClockBehindLedgerError


@contextmanager
def private_section(is_private: bool) -> Iterator[None]:
    """Raise every failure inside as `SiteTaskError` if the run is private; the site's own log shows the cause.

    A refusal of the budget or of the clock keeps its kind: it depends on earlier bookings, not on patients.

    Raises:
        SiteTaskError: whatever went wrong.

    """
    try:
        yield
    except (BudgetExceededError, ClockBehindLedgerError):
        raise
    except Exception as fault:
        if not is_private:
            raise
        raise SiteTaskError(
            "A task that uses patients' data failed.", "See the cause above in the site's own log."
        ) from fault
