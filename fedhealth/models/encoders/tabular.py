"""The tabular encoder: a small multilayer perceptron over encoded clinical variables, or the variables themselves."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class TabularEncoder(nn.Module):
    """Encoded variables [B, inputs] -> features [B, width].

    Args:
        inputs: number of features that `fedhealth.data.tabular.encode_columns` returns.
        hidden: width of the hidden layer and of the output; 0 returns the variables unchanged.

    """

    may_have_own_adapters = False

    def __init__(self, inputs: int, hidden: int = 32) -> None:
        super().__init__()
        self.width = hidden or inputs
        layers = (nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()) if hidden else ()
        self.network = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        """Encode a batch of rows."""
        return cast(Tensor, self.network(values))
