"""The oracle of `method=fedsgd`: the same optimizer on the patients of all hospitals in one place, without noise."""

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from fedhealth.config.compose import compose_config
from fedhealth.config.instantiate import instantiate
from fedhealth.data.dataset import prepare_dataset
from fedhealth.models.model_state import list_trained_arrays
from fedhealth.models.multimodal import build_model
from fedhealth.training.feature_cache import build_model_inputs
from fedhealth.training.losses import compute_row_losses

WHOLE = [
    "method=fedsgd",
    "training=sgd",
    "training.local_steps=1",
    "training.batch_size=512",
    "model.fusion.dropout=0",
    "model.text.dropout=0",
    "strategy.rounds=3",
    "training.threads=1",
    "training.optimizer.lr=0.5",
]
"""Every patient is in every step, and nothing is drawn at random. SGD with momentum: Adam divides by the size of a
gradient, so a rounding error in a gradient near zero would become a whole step."""


def train_centrally(overrides, clip=None):
    """Return the model after one step of the optimizer per round, over the union of all training rows.

    `clip` bounds the gradient of each patient as automatic clipping does, and the sum is divided by the public sizes.
    """
    config = OmegaConf.to_object(compose_config(overrides))
    torch.set_num_threads(1)
    model = build_model(config.model, config.data, config.seed).train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = instantiate(config.training.optimizer)(list(parameters.values()))
    cohorts = [prepare_dataset(config.data, site) for site in config.data.sites]
    sites = [(build_model_inputs(cohort, model), cohort.rows("train")) for cohort in cohorts]
    kind = config.data.task.kind
    for _ in range(config.strategy.rounds):
        optimizer.zero_grad()
        if clip is None:
            total = sum(len(rows) for _, rows in sites)
            for inputs, rows in sites:
                losses = compute_row_losses(model(inputs.batch(rows)), inputs.targets(rows), kind)
                (losses.sum() / total).backward()
        else:
            add_clipped_gradients(model, parameters, sites, kind, clip)
        optimizer.step()
    names = list_trained_arrays(model)
    return {name: value.numpy() for name, value in model.state_dict().items() if name in names}


def add_clipped_gradients(model, parameters, sites, kind, clip):
    """Write the sum over patients of clipped gradients over the public size of all hospitals to `p.grad`."""
    public = sum(2 ** (np.floor(2 * np.log2(len(rows)) + 1e-9) / 2) // 1 for _, rows in sites)
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for inputs, rows in sites:
        for row in rows:
            one = np.array([row])
            loss = compute_row_losses(model(inputs.batch(one)), inputs.targets(one), kind).sum()
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            found = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters.values(), found, strict=True)]
            norm = torch.sqrt(sum(g.square().sum() for g in found))
            for name, gradient in zip(parameters, found, strict=True):
                sums[name] += gradient * clip / (norm + 0.01)
    for name, parameter in parameters.items():
        parameter.grad = sums[name] / public


def measure_distance(central, folder):
    """Return the largest difference between a model and that of a run."""
    found = load_file(folder.path / "model.safetensors")
    assert found.keys() == central.keys()
    return max(float(np.abs(found[name] - central[name]).max()) for name in found)
