"""Stock Flower's simulation with its SecAgg+ workflow and mod: all sites are neighbours, two thirds reconstruct."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from benchmarks.peers_contestants.flower import CORE
from benchmarks.peers_contestants.task import ROUNDS, SITES, Task, get_arrays, set_arrays


class Site(NumPyClient):
    """One site: trains what it receives."""

    def __init__(self, task: Task, site: str) -> None:
        self.task, self.site = task, site

    def fit(self, parameters: list[np.ndarray], config: dict[str, Any]) -> tuple[list[np.ndarray], int, dict[str, Any]]:
        """Return the trained arrays and the number of rows."""
        model, data = self.task.build(), self.task.load(self.site)
        set_arrays(model, parameters)
        self.task.train(model, data)
        return get_arrays(model), len(data[0]), {}


class KeepsModel(FedAvg):
    """FedAvg that saves the model of the last round."""

    def __init__(self, task: Task) -> None:
        start = ndarrays_to_parameters(get_arrays(task.build()))
        many = len(SITES)
        super().__init__(
            min_fit_clients=many, min_available_clients=many, fraction_evaluate=0.0, initial_parameters=start
        )
        self.task = task

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Return the mean, and save it."""
        if failures:
            raise RuntimeError(failures[0])
        mean, metrics = super().aggregate_fit(server_round, results, failures)
        if mean is None:
            raise RuntimeError("no site replied")
        self.task.save(parameters_to_ndarrays(mean))
        return mean, metrics


def main() -> None:
    """Run the simulation with one core for each client."""
    task = Task.from_arguments()
    server = ServerApp()

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        legacy = LegacyContext(context, ServerConfig(num_rounds=ROUNDS), KeepsModel(task))
        secure = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=2 / 3)
        DefaultWorkflow(fit_workflow=secure)(grid, legacy)

    def make(context: Context) -> Any:
        return Site(task, SITES[int(context.node_config["partition-id"])]).to_client()

    client = ClientApp(client_fn=make, mods=[secaggplus_mod])
    run_simulation(server, client, len(SITES), backend_config=CORE)


if __name__ == "__main__":
    main()
