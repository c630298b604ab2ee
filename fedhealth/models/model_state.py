"""A model's state as named arrays: trained arrays can be shared, frozen ones are never sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from fedhealth.errors import ModelError
from fedhealth.types import State

_CHUNK = 2**15  # values whose squares fit the cache


def list_trained_arrays(model: nn.Module) -> list[str]:
    """Return the names of trained parameters and of the floating-point buffers beside them (running statistics).

    A buffer that its module does not save (`persistent=False`) is computed from others and is no part of the state.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for prefix, module in model.named_modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            buffers = module.named_buffers(prefix, recurse=False)
            unsaved = {f"{prefix}.{name}".lstrip(".") for name in module._non_persistent_buffers_set}
            names += [name for name, buffer in buffers if buffer.is_floating_point() and name not in unsaved]
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
    return {name: array.copy() for name, array in view_model_arrays(model, names).items()}


def view_model_arrays(model: nn.Module, names: Iterable[str]) -> State:
    """Return the named tensors as arrays, on a CPU without a copy: training changes them."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().numpy() for name in names}


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
            if state[name].device.type == "cpu":
                np.copyto(state[name].numpy(), array)  # arrays of a message can only be read, which torch would warn of
            else:
                state[name].copy_(torch.from_numpy(np.array(array, order="C")))


def subtract_arrays(
    after: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]
) -> float:
    """Write `after` minus `before` into `out`, which may be `after`, by the names of `before`.

    Returns:
        The sum of the squares of what was written, in float64; infinite or NaN if a value is. Each piece is squared
        while it is in the cache, and nothing of the arrays' size is made.

    """
    return float(sum(_subtract_array(after[name], array, out[name]) for name, array in before.items()))


def compute_l2_norm(arrays: Mapping[str, np.ndarray], squares: float = 0.0) -> float:
    """Return the L2 norm of all arrays together; infinite or NaN if a value is.

    Args:
        arrays: by name.
        squares: the sum of squares of further arrays.

    """
    return float(np.sqrt(sum((_sum_squares(array.reshape(-1)) for array in arrays.values()), squares)))


def _subtract_array(after: np.ndarray, before: np.ndarray, out: np.ndarray) -> float:
    if after.flags.c_contiguous and out.flags.c_contiguous:
        return _sum_squares(out.reshape(-1), after.reshape(-1), before.reshape(-1))
    np.subtract(after, before, out=out)
    return _sum_squares(out.reshape(-1))


def _sum_squares(values: np.ndarray, *terms: np.ndarray) -> float:
    """Return the sum of squares in float64; two terms have their difference written into the values first.

    Halved as numpy halves a sum (a multiple of eight values to the left), so that the last bit is the same as that of
    the sum of all squares at once, which would not fit the cache.
    """
    if values.size <= _CHUNK:
        if terms:
            after, before = terms
            np.subtract(after, before, out=values)
        squares = values.astype(np.float64)
        return float(np.square(squares, out=squares).sum())
    half = values.size // 2
    half -= half % 8
    flat = (values, *terms)
    return _sum_squares(*(each[:half] for each in flat)) + _sum_squares(*(each[half:] for each in flat))
