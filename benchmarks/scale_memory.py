"""Peak memory of one site and of the lead for a model of 100 million values, each in a process of its own.

The lead runs in the calling process and talks to every site's process by a pipe. What counts is the peak of a whole run
above what the process used after a run of a tiny model, which imported everything, less one model.
"""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.scale_run import make_job, make_words, write_hospitals

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict

    from fedhealth.protocol.job import Job

TINY = 1600
SITES = 3
_RUN = ["strategy.rounds=2", "training=sgd", "training.optimizer.momentum=0", "strategy.checkpoints=1"]
_STATUS = Path("/proc/self/status")


def measure_memory(secagg: str, values: int) -> dict[str, float]:
    """Return the peak of a site and of the lead beyond the model, over the model's size.

    Args:
        secagg: `on` or `off`.
        values: of the model.

    """
    with tempfile.TemporaryDirectory() as folder, _start_sites() as pipes:
        root = Path(folder)
        overrides = [*write_hospitals(root / "data", SITES), *_RUN, f"secagg={secagg}"]
        _run(make_job(root / "tiny", [*overrides, *make_words(TINY)]), pipes)
        job = make_job(root / "run", [*overrides, *make_words(values)])
        before = _reset_peak()
        _run(job, pipes)
        beyond = {"lead": _read_memory("VmHWM") - before, "site": max(map(_ask_peak, pipes))}
    return {name: each / (4 * values) - 1 for name, each in beyond.items()}


@contextmanager
def _start_sites() -> Iterator[list[Connection]]:
    """Start a process for every site; return the pipes to them."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(SITES)]
    processes = [context.Process(target=_serve_site, args=(other,), daemon=True) for _, other in pairs]
    for process, (_, other) in zip(processes, pairs, strict=True):
        process.start()
        other.close()  # so that a process that ends is noticed
    try:
        yield [own for own, _ in pairs]
    finally:
        for process in processes:
            process.terminate()


def _run(job: Job, pipes: list[Connection]) -> None:
    """Run the lead's application of a job with the sites behind the pipes."""
    from flwr.app import Context, Message, RecordDict

    from fedhealth.flower.in_process_grid import InProcessGrid, reply_in_turn
    from fedhealth.protocol.job import compose_job_config
    from fedhealth.runtime.local_identities import temporary_site_identities
    from strategies.app import create_server_app

    def relay(message: Message, context: Context) -> Message:
        pipe = pipes[context.node_id - 1]
        pipe.send((message.metadata.message_type, context.node_config["site"]))
        _send_records(pipe, message.content)
        return Message(_receive_records(pipe), reply_to=message)

    sites = compose_job_config(job).data.sites
    for pipe in pipes:
        pipe.send(job)
    grid = InProcessGrid(reply_in_turn(relay), sites, {})  # type: ignore[arg-type]
    with temporary_site_identities(job):
        create_server_app(job)(grid, Context(grid.run.run_id, 0, {}, RecordDict(), {}))


def _serve_site(pipe: Connection) -> None:
    """Answer as one site: a job begins a new peak, (message type, site) is a request, None asks for the peak."""
    from flwr.app import Context, Message, RecordDict

    from clients.app import build_app
    from fedhealth.flower.compat import set_message_id, set_task_identity

    set_task_identity(1, 0)
    app, before = build_app(), 0.0
    while True:
        asked: Any = pipe.recv()
        if asked is None:
            pipe.send(_read_memory("VmHWM") - before)
        elif isinstance(asked, tuple):
            kind, site = asked
            message = Message(_receive_records(pipe), 1, kind)
            set_message_id(message, "asked")
            reply = app(message, Context(1, 1, {"site": site}, RecordDict(), {}))
            del message
            _send_records(pipe, reply.content)  # raises for an error, which the site has logged
            del reply
        else:
            app, before = build_app(asked), _reset_peak()


def _ask_peak(pipe: Connection) -> float:
    pipe.send(None)
    return float(pipe.recv())


def _reset_peak() -> float:
    """Begin a new peak of this process; return the bytes that it uses now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    return _read_memory("VmRSS")


def _read_memory(field: str) -> float:
    """Return a field of this process's status in bytes: VmRSS is its memory, VmHWM the peak."""
    lines = _STATUS.read_text("ascii").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) * 1024


def _send_records(pipe: Connection, content: RecordDict) -> None:
    """Send records; the bytes of arrays travel as they are, so that there is no second copy of them."""
    from flwr.app import ArrayRecord

    arrays = {name: record for name, record in content.items() if isinstance(record, ArrayRecord)}
    about = {n: [(key, a.dtype, a.shape, a.stype) for key, a in record.items()] for n, record in arrays.items()}
    others = {name: record for name, record in content.items() if name not in arrays}
    pipe.send_bytes(pickle.dumps((about, others)))
    for record in arrays.values():
        for array in record.values():
            pipe.send_bytes(array.data)


def _receive_records(pipe: Connection) -> RecordDict:
    """Return the records that `_send_records` sent."""
    from flwr.app import Array, ArrayRecord, RecordDict

    about, others = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from a process of this benchmark
    content = RecordDict(others)
    for name, arrays in about.items():
        content[name] = ArrayRecord(
            {key: Array(dtype, shape, stype, pipe.recv_bytes()) for key, dtype, shape, stype in arrays}
        )
    return content
