"""The tabular encoder: a small multilayer perceptron over encoded clinical variables."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class TabularEncoder(nn.Module):
    """Encoded variables [B, inputs] -> features [B, width].

    Args:
        inputs: features that `fedhealth.data.tabular.encode` gives.
        hidden: width of the hidden layer and of the output.

    """

    def __init__(self, inputs: int, hidden: int = 32) -> None:
        super().__init__()
        self.width = hidden
        self.network = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())

    def forward(self, values: Tensor) -> Tensor:
        """Encode a batch of rows."""
        return cast(Tensor, self.network(values))
