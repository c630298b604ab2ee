"""Stock Flower's simulation: its message API and FedAvg, as in its PyTorch tutorial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers_contestants.task import ROUNDS, SITES, Task

CORE: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}


def build_client(task: Task) -> ClientApp:
    """Return the application of a site, which keeps nothing between rounds."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, data = task.build(), task.load(SITES[int(context.node_config["partition-id"])])
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        task.train(model, data)
        arrays, metrics = ArrayRecord(model.state_dict()), MetricRecord({"num-examples": len(data[0])})
        note_bytes(task.out, sum(len(each.data) for each in arrays.values()))
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def build_server(task: Task) -> ServerApp:
    """Return the server's application, which saves the final model."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=len(SITES), min_available_nodes=len(SITES))
        result = strategy.start(grid, ArrayRecord(task.build().state_dict()), num_rounds=ROUNDS)
        task.save(result.arrays.to_numpy_ndarrays())

    return app


def note_bytes(folder: Path, count: int) -> None:
    """Note what a site's answer weighs."""
    with (folder / "bytes").open("a", encoding="ascii") as file:
        file.write(f"{count}\n")


def main() -> None:
    """Run the simulation with one core for each client."""
    task = Task.from_arguments()
    run_simulation(build_server(task), build_client(task), len(SITES), backend_config=CORE)


if __name__ == "__main__":
    main()
