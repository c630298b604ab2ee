"""Processes that train baselines and audit sites side by side after a run; they import and read the data once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from fedhealth.config.schema import Config
from fedhealth.errors import ConfigError
from fedhealth.protocol.job import Job
from fedhealth.utils.warm_processes import MAIN, copy_environment, get_warm_context, start_server

ResultT = TypeVar("ResultT")
_MODULES = (
    "fedhealth.experiment.rehearsal",
    "fedhealth.runtime.site_workers",
)


def prepare_workers(config: Config, plain: Mapping[str, Any]) -> None:
    """Let the server of the run's processes, if it has any, import the run's parts while its data are prepared.

    Raises:
        ConfigError: a part is in the script that calls fedhealth, which no other process imports.

    """
    if max(config.baselines.workers, config.runtime.get("workers", 1)) == 1:
        return
    modules = {target: target.rpartition(".")[0] for target in _iterate_targets(plain)}
    if own := sorted(target for target, module in modules.items() if module.partition(".")[0] == MAIN):
        raise ConfigError(
            f"Worker processes cannot import {', '.join(own)}, which is in the script or notebook that runs fedhealth.",
            "Move it into a module, or set runtime.workers=1 and baselines.workers=1.",
        )
    start_server([*_MODULES, *modules.values()])


def start_workers(workers: int) -> AbstractContextManager[Executor | None]:
    """Return the processes, which start with their first work; None for one worker, which is this process."""
    if workers == 1:
        return nullcontext()
    return ProcessPoolExecutor(workers, get_warm_context(), copy_environment, (dict(os.environ),))


def _iterate_targets(node: Any) -> Iterator[str]:
    """Yield the classes and applications that a configuration names."""
    if isinstance(node, Mapping):
        yield from (str(node[key]) for key in ("_target_", "client_app") if key in node)
        for each in node.values():
            yield from _iterate_targets(each)


def compute_each(
    function: Callable[[str, Job], ResultT], names: Sequence[str], job: Job, pool: Executor | None
) -> Iterator[tuple[str, ResultT]]:
    """Return each name with what `function(name, job)` returns: in order without a pool, else as they are done.

    A pool begins at once; without one, each is computed when it is asked for.
    """
    if pool is None:
        return ((name, function(name, job)) for name in names)
    waiting = {pool.submit(function, name, job): name for name in names}
    return ((waiting[done], done.result()) for done in as_completed(waiting))
