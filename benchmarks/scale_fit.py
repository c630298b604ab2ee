"""What a round costs a site beside its arithmetic: one step of a model of 12 million values, over the bare step.

The sites answer real requests of a run on this machine; after each answer the same step is done by PyTorch alone, on
the same model and rows.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.scale_run import make_job, make_words, write_hospitals

if TYPE_CHECKING:
    from flwr.app import Context, Message

    from clients.site_setup import SiteSetup

VALUES = 12_000_000
SITES = 3
Clock = Callable[[], float]


class _TimedSites:
    """The sites' application; it notes what each answer to `train.fit` takes, and what the bare step takes.

    Attributes:
        answers: seconds.
        steps: seconds.

    """

    def __init__(self, job: Any, clock: Clock) -> None:
        from clients.app import build_app

        self._job, self._app, self._clock = job, build_app(job), clock
        self.answers: list[float] = []
        self.steps: list[float] = []

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer, and note the time."""
        from clients.app import get_institution, get_virtual_site
        from fedhealth.protocol.messages import TRAIN

        started = self._clock()
        reply = self._app(message, context)
        answered = self._clock() - started
        if message.metadata.message_type == TRAIN:
            setup = get_institution(get_virtual_site(context, self._job), self._job).setup
            self.answers.append(answered)
            self.steps.append(_time_bare_step(setup, self._clock))
        return reply


def _time_bare_step(setup: SiteSetup, clock: Clock) -> float:
    """Return the seconds of one step of training by PyTorch alone; what it changes is overwritten in the next round."""
    import torch

    from fedhealth.training.optimizers import build_optimizer

    examples, rows = setup.training_data
    model, training = setup.model, setup.config.training
    model.train()
    parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
    chosen = rows[: training.batch_size]
    started = clock()
    optimizer = build_optimizer(training, parameters)
    optimizer.zero_grad(set_to_none=True)
    scores = model(examples.batch(chosen)).squeeze(1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, examples.targets(chosen).squeeze(-1).float())
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    seconds = clock() - started
    optimizer.zero_grad(set_to_none=True)  # else the next answer would have to free the gradients
    return seconds


def measure_fit(secagg: str, rounds: int) -> dict[str, float]:
    """Return the median of answer over bare step, in processor time and in wall time, and the step's seconds.

    Args:
        secagg: `on` or `off`.
        rounds: of the run; the first loads what later ones have.

    """
    found = {}
    for name, clock in (("processor", time.process_time), ("wall", time.perf_counter)):
        with tempfile.TemporaryDirectory() as folder:
            sites = _run(Path(folder), secagg, rounds, clock)
        ratios = [answer / step for answer, step in zip(sites.answers, sites.steps, strict=True)]
        found[name] = statistics.median(ratios[SITES:])
        found[f"{name}_step"] = statistics.median(sites.steps[SITES:])
    return found


def _run(folder: Path, secagg: str, rounds: int, clock: Clock) -> _TimedSites:
    from flwr.app import Context, RecordDict

    from fedhealth.flower.in_process_grid import InProcessGrid, reply_in_turn
    from fedhealth.protocol.job import compose_job_config
    from fedhealth.runtime.local_identities import temporary_site_identities
    from strategies.app import create_server_app

    overrides = [*write_hospitals(folder / "data", SITES), *make_words(VALUES), "training=sgd"]
    job = make_job(folder / "run", [*overrides, f"secagg={secagg}", f"strategy.rounds={rounds}"])
    sites = _TimedSites(job, clock)
    grid = InProcessGrid(reply_in_turn(sites), compose_job_config(job).data.sites, {})  # type: ignore[arg-type]
    with temporary_site_identities(job):
        create_server_app(job)(grid, Context(grid.run.run_id, 0, {}, RecordDict(), {}))
    return sites
