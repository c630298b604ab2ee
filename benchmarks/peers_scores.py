"""What a contestant's run ended with: the score of its model on all sites' test rows, and what its sites sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def score_model(arrays: Path, out: Path) -> float:
    """Return the AUROC of the model that a contestant saved on the test rows of all sites.

    Args:
        arrays: folder of the task's arrays.
        out: the contestant's folder.

    """
    import torch

    from benchmarks.peers_contestants.task import SITES, Task, set_arrays

    task = Task(arrays, "plain", out)
    model = task.build().eval()
    with np.load(out / "model.npz") as stored:
        set_arrays(model, [stored[name] for name in stored.files])
    inputs, labels = (torch.cat(parts) for parts in zip(*(task.load(site, "test") for site in SITES), strict=True))
    with torch.inference_mode():
        return compute_auroc(model(inputs).numpy().ravel(), labels.numpy().ravel())


def compute_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return how often a positive row scores above a negative one; ties count half.

    Args:
        scores: [N].
        labels: [N], 0 or 1.

    """
    positive, negative = scores[labels == 1], np.sort(scores[labels == 0])
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / 2 / len(negative))


def read_sent(out: Path) -> int | None:
    """Return the bytes that a contestant's sites noted as sent; None if they did not."""
    noted = out / "bytes"
    return sum(map(int, noted.read_text("ascii").split())) if noted.is_file() else None


def read_own_run(run: Path) -> tuple[float, int]:
    """Return the pooled test AUROC of our run, and the bytes that all sites sent."""
    from fedhealth.runs.load_record import load_run_record

    record = load_run_record(run)
    replies = [reply for each in record.exchanges for reply in each.replies]
    return record.evaluation["test"].metrics["auroc"].value, sum(reply.bytes_received for reply in replies)
