"""One client of FL4Health: its basic client, or the one that trains with Opacus."""

from __future__ import annotations

import sys
from typing import Any

import flwr
import torch
from fl4health.clients.basic_client import BasicClient
from fl4health.clients.instance_level_dp_client import InstanceLevelDpClient
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers_contestants.task import BATCH, Network, Task, build_optimizer


class _Parts:
    """What a user of FL4Health gives its client."""

    def __init__(self, task: Task, site: str) -> None:
        super().__init__(data_path=task.arrays, metrics=[], device=torch.device("cpu"), client_name=site)  # type: ignore[call-arg]
        self.task, self.site = task, site
        self.model: Network

    def get_model(self, config: dict[str, Any]) -> Network:
        return self.task.build()

    def get_data_loaders(self, config: dict[str, Any]) -> tuple[Any, Any]:
        loader = DataLoader(TensorDataset(*self.task.load(self.site)), batch_size=BATCH, shuffle=True)
        return loader, loader  # nobody evaluates

    def get_criterion(self, config: dict[str, Any]) -> nn.Module:
        return nn.BCEWithLogitsLoss()

    def get_optimizer(self, config: dict[str, Any]) -> torch.optim.Optimizer:
        return build_optimizer(self.model)


class PlainSite(_Parts, BasicClient):  # type: ignore[misc]
    """Trains without privacy."""


class PrivateSite(_Parts, InstanceLevelDpClient):  # type: ignore[misc]
    """Trains with Opacus."""


def main() -> None:
    """Answer the server until it ends."""
    site, address = sys.argv[4:6]
    task = Task.from_arguments()
    client = (PrivateSite if task.variant == "dp" else PlainSite)(task, site)
    flwr.client.start_client(server_address=address, client=client.to_client())
    client.shutdown()


if __name__ == "__main__":
    main()
