"""One weight and one bias on one number, trained by plain gradient descent: every method's step is done by hand."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from clients.personalization.base import LocalRound
from fedhealth.config.schema import TaskKind, TrainingConfig
from fedhealth.data.examples import Examples, ModalitySource
from fedhealth.privacy.context import AccountingContext
from fedhealth.training.trainer import PlainTrainer, TrainingTask

RATE = 0.5
X = np.array([[1.0], [-2.0], [0.5], [3.0]], np.float32)
Y = np.array([[1.0], [0.0], [0.0], [1.0]], np.float32)


class Line(nn.Module):
    """logit = head.weight * body.weight * x."""

    modalities = frozenset({"tabular"})

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(1, 1, bias=False)
        self.fusion = nn.ModuleDict({"head": nn.Linear(1, 1, bias=False)})

    def forward(self, batch):
        return self.fusion["head"](self.body(batch["tabular"]))


def state(body, head):
    """Return the two weights as the model's arrays."""
    return {"body.weight": np.array([[body]], np.float32), "fusion.head.weight": np.array([[head]], np.float32)}


def pair(arrays):
    """Return the two weights of a state as float64 [2]."""
    return np.array([arrays["body.weight"].item(), arrays["fusion.head.weight"].item()])


def gradient(weights):
    """Return the gradient of the mean logistic loss by hand, float64 [2]."""
    body, head = weights
    error = (1 / (1 + np.exp(-body * head * X.astype(float))) - Y) / len(X)
    slope = float((error * X).sum())
    return np.array([slope * head, slope * body])


def local(start, steps=1, trainer=None, final=False, **arrays):
    """Return a round's work for a model that starts at `start`: full batches, plain SGD."""
    model = Line()
    rows = np.arange(len(X))
    examples = Examples({"tabular": ModalitySource(X, rows)}, Y, rows, rows)
    sgd = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": RATE}
    training = TrainingConfig(batch_size=len(X), local_steps=steps, optimizer=sgd, device="cpu")
    task = TrainingTask(model, examples, rows, training, TaskKind.binary, seed=0)
    place = AccountingContext("run", "site", Path("nowhere"), 1, 1)
    with torch.no_grad():
        for name, value in start.items():
            model.get_parameter(name).copy_(torch.from_numpy(value))
    arrays = {"shared": start, "merged": start} | arrays
    return LocalRound(task, trainer or PlainTrainer(), place, is_final=final, **arrays)
