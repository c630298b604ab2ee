"""NVIDIA FLARE's simulator: its FedAvg recipe, with `nvflare_site` as the clients' script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

from benchmarks.peers_contestants.task import ROUNDS, SITES, Task

MODEL = "server/simulate_job/app_server/FL_global_model.pt"


def main() -> None:
    """Run the simulator and save its last model."""
    task = Task.from_arguments()
    recipe = FedAvgRecipe(
        name="peers",
        model=task.build(),
        min_clients=len(SITES),
        num_rounds=ROUNDS,
        train_script=str(Path(__file__).with_name("nvflare_site.py")),
        train_args=f"{task.arrays} {task.variant} {task.out}",
    )
    recipe.execute(SimEnv(clients=list(SITES), num_threads=len(SITES), workspace_root=str(task.out)))
    state = torch.load(task.out / "peers" / MODEL, weights_only=True)["model"]
    task.save([np.asarray(value) for value in state.values()])


if __name__ == "__main__":
    main()
