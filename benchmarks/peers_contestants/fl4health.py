"""FL4Health: a server and one process for each client, talking over a local port, as in its examples."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import flwr
from fl4health.servers.base_server import FlServer
from fl4health.strategies.basic_fedavg import BasicFedAvg
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import SimpleClientManager

from benchmarks.peers_contestants.task import CLIP, NOISE, ROUNDS, SITES, STEPS, Task, get_arrays


class KeepsModel(BasicFedAvg):  # type: ignore[misc]
    """FL4Health's FedAvg, which saves the mean of each round."""

    def __init__(self, task: Task) -> None:
        super().__init__(
            min_fit_clients=len(SITES),
            min_available_clients=len(SITES),
            fraction_evaluate=0.0,
            on_fit_config_fn=_configure,
            initial_parameters=ndarrays_to_parameters(get_arrays(task.build())),
        )
        self.task = task

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Return the mean, and save it."""
        if failures:
            raise RuntimeError(failures[0])
        mean, metrics = super().aggregate_fit(server_round, results, failures)
        self.task.save(parameters_to_ndarrays(mean))
        return mean, metrics


def _configure(server_round: int) -> dict[str, Any]:
    settings = {"local_steps": STEPS, "current_server_round": server_round}
    return settings | {"noise_multiplier": NOISE, "clipping_bound": CLIP}


def main() -> None:
    """Start the clients, and serve them."""
    task = Task.from_arguments()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    script = [sys.executable, "-m", "benchmarks.peers_contestants.fl4health_site"]
    sites = [subprocess.Popen([*script, *sys.argv[1:4], site, address]) for site in SITES]
    server = FlServer(SimpleClientManager(), {}, KeepsModel(task), accept_failures=False)
    flwr.server.start_server(server=server, server_address=address, config=flwr.server.ServerConfig(num_rounds=ROUNDS))
    for each in sites:
        each.wait()


if __name__ == "__main__":
    main()
