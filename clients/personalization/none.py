"""No personalization: every trained array is shared, as in FedAvg (McMahan et al., AISTATS 2017)."""

from __future__ import annotations

from clients.personalization.base import BasePersonalization


class NoPersonalization(BasePersonalization):
    """One model for all."""

    sends_plain_gradients = True
    keeps_arrays = False
