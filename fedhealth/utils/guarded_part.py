"""A part of the user's own, such as an aggregation, whose every call is held against the protocol of its kind.

The protocol says all that is needed: what a method is called with, the type that it returns, and in its docstring what
that is. So no caller checks types by itself, and a message can quote the contract.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Real
from types import NoneType, UnionType
from typing import IO, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from fedhealth.utils.own_code import OwnCodeError, call_own, is_own, name_part

T = TypeVar("T")


def guard_part(part: T, protocol: Any) -> T:
    """Return the part, with every call checked if it is the user's own.

    Args:
        part: that the configuration names, or that a program passes; None stays None.
        protocol: what its kind must have.

    """
    return part if part is None or not is_own(part) else cast(T, GuardedPart(part, protocol))


class GuardedPart:
    """Stands for a part: has its attributes, and checks what they are and what its methods return.

    A method raises `OwnCodeError` if it does not take the protocol's arguments, returns another type, or fails.
    """

    guarded: object
    protocol: type

    def __init__(self, part: object, protocol: type) -> None:
        vars(self).update(guarded=part, protocol=protocol)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "guarded" not in vars(self):  # asked while it is copied
            raise AttributeError(name)
        if name in dir(self.protocol) and not hasattr(self.guarded, name):
            problem = f"{name_part(self.guarded)} has no `{name}`."
            raise OwnCodeError(problem, f"See {self.protocol.__module__}.{self.protocol.__qualname__}.")
        contract = inspect.getattr_static(self.protocol, name, None)
        if inspect.isfunction(contract):
            return partial(_call_method, self.guarded, contract)
        value = call_own(partial(getattr, self.guarded, name), contract=f"`{name}` is an attribute.")
        if not _has_type(value, hint := _get_attribute_type(self.protocol, name)):
            problem = f"{name_part(self.guarded)}: its `{name}` is {describe_value(value)}, not {_name_type(hint)}."
            raise OwnCodeError(problem, f"See {self.protocol.__module__}.{self.protocol.__qualname__}.")
        return value

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.guarded, name, value)

    def __repr__(self) -> str:
        return repr(self.guarded)


def get_part(part: T) -> T:
    """Return the part itself, which may be guarded."""
    return cast(T, part.guarded) if isinstance(part, GuardedPart) else part


def describe_value(value: object) -> str:
    """Return what a value is, for a message: its type, and the shape of an array; never what it holds."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = "an array" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        return f"{kind} of {value.dtype}, shape {list(value.shape)}"
    return "None" if value is None else f"a {type(value).__qualname__}"


def _call_method(part: object, contract: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call the method of a part that a method of its protocol describes."""
    name, call = contract.__name__, f"`{contract.__name__}{_format_signature(contract)}`"
    method = getattr(part, name)
    result = call_own(partial(method, **named) if named else method, *arguments, contract=f"The call is {call}.")
    hint = get_type_hints(contract).get("return", Any)
    if hint is not NoneType and not _has_type(result, hint):
        problem = f"{name_part(part)}: `{name}` returned {describe_value(result)}, not {_name_type(hint)}."
        raise OwnCodeError(problem, f"The contract is {call}: {(inspect.getdoc(contract) or '').splitlines()[0]}")
    return result


def _get_attribute_type(protocol: type, name: str) -> Any:
    """Return the type that a protocol declares for an attribute or property; Any for another name."""
    declared = inspect.getattr_static(protocol, name, None)
    if isinstance(declared, property) and declared.fget:
        return get_type_hints(declared.fget).get("return", Any)
    return get_type_hints(protocol).get(name, Any)


def _format_signature(contract: Callable[..., Any]) -> str:
    """Return the parameters without `self`, and the type of the result, as they are written in the protocol."""
    signature = inspect.signature(contract)
    _, *parameters = signature.parameters.values()
    return re.sub(r"'([^']*)'", r"\1", str(signature.replace(parameters=parameters)))


def _name_type(hint: Any) -> str:
    """Return a type as it is written, without the names of modules."""
    if isinstance(hint, type) and not get_args(hint):
        return hint.__qualname__
    return re.sub(r"[a-z_]\w*\.", "", str(hint)).replace("NoneType", "None")


def _has_type(value: object, hint: Any) -> bool:
    """Return whether a value has a declared type; what cannot be told counts as having it."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_has_type(value, each) for each in inner)
    if kind in (dict, Mapping) and inner:
        return isinstance(value, Mapping) and all(
            _has_type(key, inner[0]) and _has_type(each, inner[1]) for key, each in value.items()
        )
    if kind in (list, tuple, Sequence, Iterator) and inner:
        return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    if kind is float:
        return isinstance(value, Real)
    return hasattr(value, "read") if issubclass(kind, IO) else isinstance(value, kind)
