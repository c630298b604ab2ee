"""What an exception says in one line, and what to do if it says that a module is missing."""

from __future__ import annotations

_OURS = ("fedhealth", "strategies", "clients")


def get_first_line(fault: BaseException | None) -> str:
    """Return the first line of a fault's text; the name of its type where it has none."""
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]


def advise_import(fault: BaseException, otherwise: str) -> str:
    """Return what to do about a part that cannot be imported or built; `otherwise` if no module is missing."""
    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and (cause.name or "").partition(".")[0] not in _OURS:
            return "Install your package (`pip install -e .`), or start with `PYTHONPATH=FOLDER` before the command."
        cause = cause.__cause__
    return otherwise
