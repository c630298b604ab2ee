"""A damaged file of a run directory is named, with what to do; it is no bug of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fedhealth.errors import ConfigError
from fedhealth.utils.atomic_io import read_json

T = TypeVar("T")
ADVICE = "Restore the run's folder from a backup, or repeat the run."
_WHAT_A_DAMAGED_FILE_RAISES = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,  # OmegaConf, of a text that is one number
    EOFError,
    RecursionError,
    BadZipFile,
    YAMLError,
    OmegaConfBaseException,
)


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Convert what reading a damaged file raises in the block into one error that names it.

    Raises:
        ConfigError: the file is damaged.

    """
    try:
        yield
    except _WHAT_A_DAMAGED_FILE_RAISES as fault:
        reason = " ".join(str(fault).split())[:200]
        raise ConfigError(
            f"{path} is damaged ({type(fault).__name__}: {reason}).",
            ADVICE,
        ) from fault


def read_part(path: Path, parse: Callable[[Any], T]) -> T:
    """Return what `parse` makes of a JSON file; it gets None where the file does not exist.

    Raises:
        ConfigError: the file is damaged.

    """
    with explain_damage(path):
        return parse(read_json(path))
