"""A model's state as named arrays: trained arrays can be shared, frozen ones are never sent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from fedhealth.errors import ModelError
from fedhealth.types import State


def list_trained_arrays(model: nn.Module) -> list[str]:
    """Return the names of trained parameters and of the floating-point buffers beside them (running statistics)."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for prefix, module in model.named_modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            buffers = module.named_buffers(prefix, recurse=False)
            names += [name for name, buffer in buffers if buffer.is_floating_point()]
    return sorted(names)


def list_embedding_tables(model: nn.Module) -> set[str]:
    """Return the names of the weights that are looked up by row: only the rows of tokens that occur are trained.

    A token for a missing modality is a table of one row, and no word.
    """
    tables = (nn.Embedding, nn.EmbeddingBag)
    found = {name: module for name, module in model.named_modules() if isinstance(module, tables)}
    return {f"{name}.weight" for name, module in found.items() if module.num_embeddings > 1}


def get_model_arrays(model: nn.Module, names: list[str]) -> State:
    """Return copies of the named tensors as arrays."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().numpy().copy() for name in names}


def set_model_arrays(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` into the model in place.

    Raises:
        ModelError: the model has no array of that name and shape; nothing was written.

    """
    state = model.state_dict()
    for name, array in arrays.items():
        if name not in state or tuple(state[name].shape) != array.shape:
            expected = tuple(state[name].shape) if name in state else "nothing"
            raise ModelError(
                f"The array {name!r} of shape {array.shape} does not fit: the model has {expected} there.",
                "Check that lead and sites use the same configuration.",
            )
    with torch.no_grad():
        for name, array in arrays.items():
            state[name].copy_(torch.from_numpy(np.array(array, order="C")))


def compute_l2_norm(arrays: Mapping[str, np.ndarray]) -> float:
    """Return the L2 norm of all arrays together."""
    return float(np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays.values())))
