"""Processes that are forked from a server, which has imported what they need: only the server pays for the imports."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType
from typing import Any

MAIN = "__main__"
_FIRST = "fedhealth.utils.silent_interrupt"


class _WarmProcess(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing calls it so
        with _hidden_main():
            return ForkServerProcess._Popen(process_obj)


class _WarmContext(ForkServerContext):
    Process = _WarmProcess


def start_server(modules: Sequence[str], ends_with_interrupt: bool = True) -> None:
    """Start the server, which imports these modules while this process goes on; nothing happens if it runs.

    Args:
        modules: that its processes need.
        ends_with_interrupt: whether Ctrl-C ends the server while it imports, and its processes; no if this process
            handles Ctrl-C and needs them to stop in order.

    """
    get_warm_context().set_forkserver_preload([*([_FIRST] if ends_with_interrupt else []), *modules])
    resource_tracker.ensure_running()  # first, because it unblocks Ctrl-C itself
    with _blocked_interrupt():
        forkserver.ensure_running()


def get_warm_context() -> ForkServerContext:
    """Return the context that forks processes from the server; a server that does not run yet imports nothing.

    Its processes do not run the script that this process runs, as those of multiprocessing's own contexts do: a script
    that calls fedhealth would call it again in each of them, unless its author asks for `__name__`.
    """
    return _WarmContext()


def copy_environment(environment: Mapping[str, str]) -> None:
    """Give this process its parent's environment: the server that it was forked from may be older."""
    os.environ.update(environment)


@contextmanager
def _blocked_interrupt() -> Iterator[None]:
    """Block Ctrl-C, also in processes that are started meanwhile; it takes effect at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Hide this process's script from multiprocessing, which tells a new process where to find it."""
    main = sys.modules[MAIN]
    sys.modules[MAIN] = ModuleType(MAIN)
    try:
        yield
    finally:
        sys.modules[MAIN] = main
