"""Tell an error of the user's own code, such as an aggregation or an encoder in their package, from a bug of ours."""

from __future__ import annotations

import functools
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fedhealth.errors import ConfigError, FedhealthError

OUR_PACKAGES = ("fedhealth", "strategies", "clients")

_HERE = Path(__file__).parents[2]
_OURS = tuple(_HERE / name for name in OUR_PACKAGES)
_LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))

T = TypeVar("T")


class OwnCodeError(ConfigError):
    """A part that the user wrote raised an error or does not keep its contract; never the fault of a site."""


def explain_own_code(fault: BaseException, is_part: bool = False) -> OwnCodeError | None:
    """Return the error for a fault that the user's own code raised; None for any other fault.

    The last line of the user's that our code called is named. Libraries and our own functions that this line calls are
    passed over: a shape that torch refuses is the fault of whoever called torch. A script that calls fedhealth is no
    part of a run: what it calls may have a bug.

    Args:
        fault: with its traceback.
        is_part: whether the traceback begins inside a call of ours, because a library caught the fault there.

    """
    found, is_inside = "", is_part
    for frame, line in traceback.walk_tb(fault.__traceback__):
        code = frame.f_code
        file = Path(code.co_filename)
        if any(file.is_relative_to(folder) for folder in _OURS):
            is_inside = True
        elif is_inside and file.is_file() and not any(file.is_relative_to(folder) for folder in _LIBRARIES):
            found = f"{code.co_qualname.partition('.<locals>.<')[0]} ({file}, line {line})"
    return _build_error(fault, found) if found else None


def _build_error(fault: BaseException, where: str) -> OwnCodeError:
    reason = " ".join(f"{type(fault).__name__}: {fault}".split())
    return OwnCodeError(
        f"{where} raised {reason}",
        "It is an error of that part, which is no part of fedhealth: correct it there. `--debug` shows the traceback.",
    )


@contextmanager
def explained_own_code() -> Iterator[None]:
    """Raise what the user's own code raises inside as an error that names its class, file and line.

    Raises:
        OwnCodeError: instead of an exception of the user's own code.

    """
    try:
        yield
    except FedhealthError:
        raise
    except Exception as fault:
        if (error := explain_own_code(fault)) is None:
            raise
        raise error from fault


def call_own(function: Callable[..., T], *arguments: Any, contract: str) -> T:
    """Call a function or method that may be the user's own.

    Args:
        function: to call.
        arguments: of the call.
        contract: how it is called and what it returns, a sentence for the message.

    Raises:
        OwnCodeError: it does not take these arguments, or the user's own code raised an error.
        Exception: any other; it is a bug of ours.

    """
    try:
        with explained_own_code():
            return function(*arguments)
    except TypeError as fault:
        if (reason := _find_misfit(function, arguments)) is None:
            raise
        raise OwnCodeError(f"{name_part(function)} cannot be called: {reason}.", contract) from fault


def _find_misfit(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str | None:
    """Return why a function does not take these arguments; None if it does."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as fault:
        return str(fault)
    except ValueError:  # a built-in function that has no signature
        return None
    return None


def is_own(part: object) -> bool:
    """Return whether a part, or a function, is not one of fedhealth's."""
    return _get_kind(part).__module__.partition(".")[0] not in OUR_PACKAGES


def name_part(part: object) -> str:
    """Return the name of a part's class, or of a function, with its file where it is the user's."""
    kind = _get_kind(part)
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        file = inspect.getsourcefile(kind) if is_own(part) else None
    except TypeError:  # it is built in
        file = None
    return f"{name} ({file})" if file else name


def _get_kind(part: object) -> Any:
    """Return what has the name of a part: a function, a method, or the class of an object."""
    while isinstance(part, functools.partial):
        part = part.func
    return part if inspect.isroutine(part) or isinstance(part, type) else type(part)
