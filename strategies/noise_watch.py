"""Watch the noise of opened sums: report it, and stop a run whose sums have less noise than was promised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from fedhealth.errors import PrivacyError
from fedhealth.privacy.auditing.blank_values import BlankValues, add_blanks
from strategies.messaging import EventCallback


class NoiseWatch:
    """The blank values of all sums that this process has opened.

    Args:
        event: called with the blanks of every sum; the report reads them.

    """

    def __init__(self, event: EventCallback) -> None:
        self._event = event
        self._blanks: dict[str, BlankValues] = {}

    def check_sum(self, number: int, blanks: Mapping[str, BlankValues]) -> None:
        """Report the blanks of a sum, and stop where all sums together lack some of the promised noise.

        Args:
            number: the round.
            blanks: by segment; empty where the sites share no noise.

        Raises:
            PrivacyError: the noise is too small.

        """
        if not blanks:
            return
        self._event("noise_measured", round=number, blanks={name: asdict(each) for name, each in blanks.items()})
        self._blanks = add_blanks([self._blanks, blanks])
        for name, each in self._blanks.items():
            if each.lacks_noise:
                raise PrivacyError(
                    f"The sums of {name} hold {each.variance_ratio:.2f} of the promised variance of the noise: "
                    "a hospital adds less than its part.",
                    "The run stops. Compare the hospitals' releases, and let each run `fedhealth site check`. Until "
                    "then only the local epsilon holds for what was opened.",
                )
