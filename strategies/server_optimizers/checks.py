"""Take a step of a server optimizer, which may be a user's own, and check that it returns the next model."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from fedhealth.types import State
from fedhealth.utils.guarded_part import describe_value, get_part
from fedhealth.utils.own_code import OwnCodeError, name_part
from strategies.array_fault import ArrayFault, find_array_fault
from strategies.server_optimizers.base import ServerOptimizer

_ADVICE = "`step` returns every array that it was given, with the same name, shape and type, and finite values."


def step_checked(optimizer: ServerOptimizer, arrays: State, update: State) -> State:
    """Return the next arrays, with the names, shapes and types of `arrays`.

    Args:
        optimizer: takes the step.
        arrays: the model's, by name.
        update: the mean update, float32 by name; it may lack arrays.

    Raises:
        OwnCodeError: the optimizer returned something else; naming it and the array.

    """
    name, returned = name_part(get_part(optimizer)), cast(dict[str, Any], optimizer.step(arrays, update))
    # numpy's sum of two arrays without axes is no array
    stepped = {key: np.asarray(each) if isinstance(each, np.generic) else each for key, each in returned.items()}
    if others := sorted(set(stepped) ^ set(arrays)):
        found = "without" if others[0] in arrays else "with another array,"
        raise OwnCodeError(f"The server optimizer {name} returned a model {found} {others[0]}.", _ADVICE)
    for key, before in arrays.items():
        after = stepped[key]
        fault = find_array_fault(after, before.shape, before.dtype)
        if fault is ArrayFault.form:
            problem = f"returned {key} as {describe_value(after)}, not as {describe_value(before)}."
            raise OwnCodeError(f"The server optimizer {name} {problem}", _ADVICE)
        if fault is ArrayFault.values:
            raise OwnCodeError(f"The server optimizer {name} returned {key} with values that are not finite.", _ADVICE)
    return stepped
