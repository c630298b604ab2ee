"""The yardstick: the same steps in a loop, and the mean of the sites' models after each round."""

from __future__ import annotations

import numpy as np

from benchmarks.peers_contestants.task import ROUNDS, SITES, Task, get_arrays, set_arrays


def main() -> None:
    """Train all sites in turn."""
    task = Task.from_arguments()
    model, data = task.build(), [task.load(site) for site in SITES]
    arrays = get_arrays(model)
    for _ in range(ROUNDS):
        trained = []
        for each in data:
            set_arrays(model, arrays)
            task.train(model, each)
            trained.append(get_arrays(model))
        arrays = [np.mean(values, axis=0) for values in zip(*trained, strict=True)]
    task.save(arrays)


if __name__ == "__main__":
    main()
