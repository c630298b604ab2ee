"""Tell an error of the user's own code, such as an aggregation or an encoder in their package, from a bug of ours."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

from fedhealth.errors import ConfigError

_HERE = Path(__file__).parents[2]
_OURS = tuple(_HERE / name for name in ("fedhealth", "strategies", "clients"))
_LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


def explain_own_code(fault: BaseException) -> ConfigError | None:
    """Return the error for a fault that the user's own code raised; None for any other fault.

    Libraries are passed over: a shape that torch refuses is the fault of whoever called torch.
    """
    for frame, line in reversed(list(traceback.walk_tb(fault.__traceback__))):
        code = frame.f_code
        file = Path(code.co_filename)
        if any(file.is_relative_to(folder) for folder in _OURS):
            return None
        if file.is_file() and not any(file.is_relative_to(folder) for folder in _LIBRARIES):
            return _build_error(fault, f"{code.co_qualname} ({file}, line {line})")
    return None


def _build_error(fault: BaseException, where: str) -> ConfigError:
    reason = " ".join(f"{type(fault).__name__}: {fault}".split())
    return ConfigError(
        f"{where} raised {reason}",
        "It is an error of that part, which is no part of fedhealth: correct it there. `--debug` shows the traceback.",
    )
