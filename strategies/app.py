"""The lead's Flower application."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from safetensors.numpy import save

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config, Purpose
from fedhealth.errors import FedhealthError
from fedhealth.evaluation import subgroups
from fedhealth.evaluation.histogram_error import largest_errors
from fedhealth.evaluation.predictions import ScoreCounts, score_counts
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import job_of
from fedhealth.models.model_state import get_state, trained_names
from fedhealth.models.multimodal import build_model
from fedhealth.monitor.run_metrics import told
from fedhealth.protocol.array_codec import plain, unpack
from fedhealth.protocol.job import Job, config_of
from fedhealth.protocol.messages import END
from fedhealth.runs.run_dir import COUNTS, GROUPS, SERVED, RunDir, logged_to
from fedhealth.statistics import heterogeneity
from fedhealth.statistics.shapes import SIDES, modalities_of, statistic_shapes
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_atomic, write_json
from strategies.aggregation.base import Aggregation
from strategies.checkpoint import Checkpoints
from strategies.deadlines import Deadlines
from strategies.fedavg import FederatedStrategy, Identity
from strategies.messaging import exchange
from strategies.participants import Cohort
from strategies.reservation import ask
from strategies.statistics import counts_of

log = logging.getLogger("fedhealth.lead")
_FORMER_SECONDS = 120.0  # for a process that did the rounds before to notice that it is no longer asked to
_FAREWELL_SECONDS = 10.0  # for hospitals to hear that the job is done


def build(job: Job | None = None) -> ServerApp:
    """Return the application, for one job or (where Flower brings it) for the order in the run configuration."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        if job:
            serve(grid, job)
        else:
            serve_order(grid, str(context.run_config["job"]))

    return app


def serve_order(grid: Grid, words: str) -> None:
    """Run the federation of a signed order, in a process of its own: what happens is written down for the lead."""
    (pull_objects.__kwdefaults__ or {})["initial_backoff"] = 0.05  # a second of Flower's, on every reply
    job = job_of(LeadHome.find(), words)
    folder = RunDir(Path(job.folder))
    log_path = folder.path / "fedhealth.log"
    with logged_to(log_path), folder.held(SERVED, _FORMER_SECONDS), told(folder, at_server=True):
        try:
            serve(grid, job)
            _farewell(grid)
        except FedhealthError as fault:
            folder.event("failed", problem=fault.problem, advice=fault.advice)
            raise


def _farewell(grid: Grid) -> None:
    """Tell the sites that the job is done: they take it up never again. One that is away finds out by the hours."""
    nodes = list(grid.get_node_ids())
    contents = {node: RecordDict({"end": ConfigRecord({"node": str(node)})}) for node in nodes}
    try:
        for _ in exchange(grid, END, contents, "end", dict.fromkeys(nodes, _FAREWELL_SECONDS)):
            pass
    except Exception:
        log.warning("not every site was told that the job is done", exc_info=True)


def serve(grid: Grid, job: Job) -> None:
    """Run the federation of `job` and leave the model and its evaluation in the run directory."""
    config, folder = config_of(job), RunDir(Path(job.folder))
    if job.statement is not None:
        sites = tuple(config.data.sites)
        ask(grid, Identity(job.run, job.digest), sites, config.strategy, job.statement, folder.event)
        return
    initial = initial_state(config)
    strategy = compose_strategy(config, job, folder, initial)
    if config.purpose is Purpose.describe:
        summed = strategy.describe(grid, config.strategy.round_timeout)
        np.savez(folder.path / COUNTS, allow_pickle=False, **summed)
        return
    started = strategy.start(
        grid,
        plain(initial),
        num_rounds=config.strategy.rounds,
        timeout=config.strategy.round_timeout,
    )
    write_atomic(folder.path / "model.safetensors", save(unpack(started.arrays)))
    counts = counts_of(strategy.final)
    write_json(folder.path / "evaluation.json", _evaluation(counts, config))
    if told := subgroups.judged(strategy.final, config):
        write_json(folder.path / GROUPS, told)
    np.savez(folder.path / "score_histograms.npz", allow_pickle=False, **_histograms(counts))


def compose_strategy(config: Config, job: Job, folder: RunDir, initial: State) -> FederatedStrategy:
    """Put the configured parts together for shared arrays like `initial`."""
    lead = config.strategy
    aggregation: Aggregation = instantiate(lead.aggregation or config.secagg["lead"])
    aggregation.start(job.run, job.digest, folder.path)
    shapes = {name: array.shape for name, array in initial.items()}
    return FederatedStrategy(
        Identity(job.run, job.digest),
        Cohort(tuple(config.data.sites), lead.min_sites, lead.quorum, lead.wait),
        aggregation,
        instantiate(lead.server_optimizer),
        companion=instantiate(lead.companion),
        extra=instantiate(config.personalization).extras(shapes),
        statistics=statistic_shapes(config),
        attempts=lead.attempts,
        deadlines=Deadlines(lead.patience),
        checkpoints=Checkpoints(folder.path, lead.checkpoints),
        tables={
            heterogeneity.PROFILE + table.name: table
            for table in heterogeneity.tables(config.data, modalities_of(config))
        },
        event=folder.event,
    )


def initial_state(config: Config) -> State:
    """Return the shared arrays that every run of this configuration and seed starts from."""
    model = build_model(config.model, config.data, config.seed)
    personalization = instantiate(config.personalization)
    personalization.freeze(model)
    return get_state(model, sorted(personalization.shared(model, trained_names(model))))


def _evaluation(counts: Mapping[str, ScoreCounts], config: Config) -> dict[str, object]:
    """Return pooled scores of the final model with intervals, from the summed histograms."""
    resamples, seed = config.evaluation.bootstrap, config.seed
    return {
        split: {
            "studies": int(summed.positives[0].sum() + summed.negatives[0].sum()),
            "positives": summed.positives.sum(axis=1).tolist(),
            **{name: value.as_dict() for name, value in score_counts(summed, resamples, seed).items()},
            "error": {name: round(error, 7) for name, error in largest_errors(summed).items()},
        }
        for split, summed in counts.items()
    }


def _histograms(counts: Mapping[str, ScoreCounts]) -> dict[str, np.ndarray]:
    """Return `<split>.positives` and `<split>.negatives`, each int64 [K, bins]."""
    return {f"{split}.{side}": getattr(summed, side) for split, summed in counts.items() for side in SIDES}


app = build()
