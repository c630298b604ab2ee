"""What all contestants do: the same arrays, network and steps. Needs numpy and torch alone, and Python 3.10."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SITES = ("a", "b", "c", "d")
ROUNDS, STEPS, BATCH = 10, 20, 32
RATE, MOMENTUM = 0.05, 0.9
NOISE, CLIP = 1.0, 1.0  # of private training: the noise multiplier, and the bound on a patient's gradient
SIDE, WIDTHS = 32, (1, 16, 32, 64, 96)  # of the images, and of the layers of their network
SEED = 0


class Network(nn.Module):
    """The layers of our `model=small`: an encoder, a projection and a classifier with one logit.

    Args:
        inputs: number of features of a row; 0 for an image [1, 32, 32], uint8.

    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        encoder, width = (_build_perceptron(inputs), 32) if inputs else (_build_convolutions(), WIDTHS[-1])
        project = (nn.LayerNorm(width), nn.Linear(width, 48), nn.ReLU())
        self.layers = nn.Sequential(*encoder, *project, nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, values: Tensor) -> Tensor:
        """Return logits [B, 1]."""
        logits: Tensor = self.layers(values if self.inputs else values.float() / 127.5 - 1)
        return logits


def _build_perceptron(inputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()]


def _build_convolutions() -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in zip(WIDTHS, WIDTHS[1:]):  # noqa: B905, RUF007 - Python 3.10
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]


@dataclass(frozen=True)
class Task:
    """The command line of a contestant.

    Attributes:
        arrays: folder with one file of arrays per site.
        variant: `plain`, `dp` or `secagg`.
        out: folder for the final model and whatever else is written.

    """

    arrays: Path
    variant: str
    out: Path

    @classmethod
    def from_arguments(cls) -> Task:
        """Return the task that the command line names."""
        arrays, variant, out = sys.argv[1:4]
        return cls(Path(arrays), variant, Path(out))

    def load(self, site: str, split: str = "train") -> tuple[Tensor, Tensor]:
        """Return the inputs and labels (float32 [N, 1]) of a site."""
        with np.load(self.arrays / f"{site}.npz") as stored:
            return torch.from_numpy(stored[f"{split}_inputs"]), torch.from_numpy(stored[f"{split}_labels"])

    def build(self) -> Network:
        """Return the network at its start, the same in every process."""
        torch.manual_seed(SEED)
        inputs, _ = self.load(SITES[0])
        return Network(inputs.shape[1] if inputs.ndim == 2 else 0)

    def train(self, model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
        """Train a model in place for one round."""
        (train_privately if self.variant == "dp" else train)(model, data)

    def save(self, arrays: list[np.ndarray]) -> None:
        """Write the final model, in the order of its state."""
        np.savez(self.out / "model.npz", *arrays)


def get_arrays(model: nn.Module) -> list[np.ndarray]:
    """Return copies of a model's arrays."""
    return [value.detach().numpy().copy() for value in model.state_dict().values()]


def set_arrays(model: nn.Module, arrays: list[np.ndarray]) -> None:
    """Set a model's arrays."""
    names = model.state_dict()
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in zip(names, arrays)})  # noqa: B905


def build_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of one round."""
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)


def train(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Take the steps of one round, batches drawn without replacement."""
    inputs, labels = data
    optimizer, loss, order = build_optimizer(model), nn.BCEWithLogitsLoss(), torch.empty(0, dtype=torch.long)
    model.train()
    for _ in range(STEPS):
        if len(order) < BATCH:
            order = torch.randperm(len(inputs))
        rows, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        loss(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()


def train_privately(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Take the steps of one round of DP-SGD with Opacus; batches are drawn by Poisson sampling."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    model.train()
    private, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=build_optimizer(model),
        data_loader=DataLoader(TensorDataset(*data), batch_size=BATCH),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
    )
    loss, left = nn.BCEWithLogitsLoss(), STEPS
    while left:
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss(private(inputs), labels).backward()
            optimizer.step()
            left -= 1
            if not left:
                break
    private.to_standard_module()
