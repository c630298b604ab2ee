"""Processes that are forked from a server, which has imported what they need: only the server pays for the imports."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext


def start_server(modules: Sequence[str]) -> None:
    """Start the server, which imports these modules while this process goes on; nothing happens if it runs."""
    get_warm_context().set_forkserver_preload(list(modules))
    forkserver.ensure_running()


def get_warm_context() -> ForkServerContext:
    """Return the context that forks processes from the server; a server that does not run yet imports nothing."""
    return multiprocessing.get_context("forkserver")


def copy_environment(environment: Mapping[str, str]) -> None:
    """Give this process its parent's environment: the server that it was forked from may be older."""
    os.environ.update(environment)
