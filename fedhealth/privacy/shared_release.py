"""What a site adds to a sum whose noise the sites share: never less than what is booked, and drawn for one sum only."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.mechanisms.noise_share import NoiseShare, draw_shares
from fedhealth.privacy.mechanisms.noised_counts import NOISE, encode_counts
from fedhealth.secagg.primitives.noise_grid import LEAST_SHARES, is_blank

_ROUNDING = 1 - 1e-9  # of a noise multiplier that was computed from a share and back


def check_noise_shares(shares: Mapping[str, NoiseShare], sensitivity: float, event: PrivacyEvent) -> None:
    """Check that the sum which the shares lead to has at least the noise of the event that is booked for it.

    Args:
        shares: of everything that one event releases.
        sensitivity: largest L2 norm of one unit's part in it.
        event: as it is booked.

    Raises:
        PrivacyError: it has less; nothing was booked.

    """
    if not shares:
        raise PrivacyError("a share of the noise needs a secure sum", "Use secagg=on, or privacy.noise=local.")
    for share in shares.values():
        multiplier = share.compute_multiplier(sensitivity)
        if multiplier < event.noise_multiplier * _ROUNDING or not LEAST_SHARES <= share.shares <= event.shares:
            raise PrivacyError(
                "the sum would have less noise than this site's plan promises",
                "The site's policy has changed since it joined: restart the run.",
            )
        own = share.std / sensitivity
        if not own >= event.share_multiplier * _ROUNDING or not math.isfinite(own):
            raise PrivacyError("this site's share of the noise is too small", "Restart the run.")


def draw_shared_tables(tables: Mapping[str, np.ndarray], shares: Mapping[str, NoiseShare]) -> dict[str, np.ndarray]:
    """Return counts with this site's share of the noise, and by group the variance of the share.

    Args:
        tables: of counts, such as `test.positives`; each must have a share.
        shares: of all tables of one segment, which have the same noise, and of its blanks.

    """
    if missing := sorted(set(tables) ^ {name for name in shares if not is_blank(name)}):
        raise PrivacyError(f"the sum shares the noise of other tables ({missing[0]})", "Use the same release.")
    drawn = draw_shares({name: torch.from_numpy(table.astype(np.float64)) for name, table in tables.items()}, shares)
    groups = {name.partition(".")[0]: shares[name].std ** 2 for name in tables}
    variances = {f"{group}.{NOISE}": encode_counts(np.array([variance])) for group, variance in groups.items()}
    return {**drawn, **variances}
