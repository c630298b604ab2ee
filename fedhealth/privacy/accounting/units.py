"""Privacy units: what an event costs one patient, whatever unit its run protects.

A ledger composes one unit, the patient. Two bounds convert the others:

- A patient has at most k studies in a record-level run. Together they change a step's sum by at most k times the bound,
  and only if the step samples at least one of them: (noise multiplier / k, sample rate 1 - (1 - q)^k).
- Replacing one patient changes a whole site's clipped update by at most twice the bound: noise multiplier / 2.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent

PrivacyUnit = Literal["patient", "record", "client"]
_CLIENT_CHANGE = 2  # times the clipping bound


def convert_to_patient(event: PrivacyEvent, unit: str, max_records_per_patient: int) -> PrivacyEvent:
    """Return what an event costs one patient.

    Args:
        event: the mechanism, in its own unit.
        unit: whom it protects: `patient`, `record` or `client`.
        max_records_per_patient: the most studies of one patient that it uses; for unit `record`.

    Raises:
        PrivacyError: the unit is unknown, or the number of studies is not positive.

    """
    if unit == "patient":
        return event
    if unit == "client":
        return replace(event, noise_multiplier=event.noise_multiplier / _CLIENT_CHANGE)
    if unit != "record" or max_records_per_patient < 1:
        raise PrivacyError(
            f"an event of unit {unit!r} with {max_records_per_patient} records per patient cannot be converted",
            "The unit is patient, record or client, and a patient has at least one record.",
        )
    rate, k = event.sample_rate, max_records_per_patient
    any_rate = 1.0 if rate == 1 else min(1.0, -math.expm1(k * math.log1p(-rate)))
    return replace(event, noise_multiplier=event.noise_multiplier / k, sample_rate=any_rate)
