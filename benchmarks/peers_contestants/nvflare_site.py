"""The script that NVIDIA FLARE's simulator runs for each client."""

from __future__ import annotations

import nvflare.client as flare

from benchmarks.peers_contestants.task import STEPS, Task


def main() -> None:
    """Train what the server sends until it ends the job."""
    task = Task.from_arguments()
    flare.init()
    model, data = task.build(), task.load(flare.get_site_name())
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        model.load_state_dict(received.params)
        task.train(model, data)
        flare.send(flare.FLModel(params=model.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": STEPS}))


if __name__ == "__main__":
    main()
