"""The lead's Flower ServerApp."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config, Purpose, Sends
from fedhealth.config.selection_rule import find_selection_rule
from fedhealth.consortium.membership import SignedMembership
from fedhealth.errors import FedhealthError
from fedhealth.evaluation import subgroups
from fedhealth.evaluation.histogram_error import bound_errors
from fedhealth.evaluation.pooled_calibration import estimate_calibrated_metrics, fit_pooled_calibrations
from fedhealth.evaluation.predictions import ScoreHistograms, compute_histogram_metrics, describe_histogram_noise
from fedhealth.flower.compat import shorten_pull_backoff
from fedhealth.flower.grid_wrapper import BundlingGrid
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import load_job
from fedhealth.lead.site_overview import load_node_names
from fedhealth.models.model_method import build_model_method
from fedhealth.models.model_state import get_model_arrays, list_trained_arrays
from fedhealth.models.multimodal import build_model
from fedhealth.monitor.run_metrics import monitor_run
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.protocol.messages import DESCRIBE, END, EVALUATE
from fedhealth.runs.run_dir import COUNTS_FILE, GROUPS_FILE, LOG_FILE, SERVER_LOCK, RunDir, log_to_file
from fedhealth.secagg.protocol.store import FileStore
from fedhealth.statistics import heterogeneity
from fedhealth.statistics.shapes import SIDES, compute_shared_sensitivity, get_modalities, get_statistic_shapes
from fedhealth.types import State
from fedhealth.utils.array_file import write_array_file
from fedhealth.utils.atomic_io import write_json
from fedhealth.utils.guarded_part import guard_part
from strategies.aggregation.base import Aggregation, Shapes
from strategies.checkpoint import CheckpointStore
from strategies.deadlines import ReplyDeadlines
from strategies.fedavg import FedAvg
from strategies.messaging import exchange_messages
from strategies.participants import Participation
from strategies.reservation import request_reservations
from strategies.round_average import RoundAverage
from strategies.round_request import RunIdentity
from strategies.selection import RoundSelection
from strategies.statement_carrier import StatementCarrier
from strategies.statistics import read_score_counts

log = logging.getLogger("fedhealth.lead")
_LOCK_SECONDS = 120.0  # for a previous server app of this run to notice that it was stopped
_END_SECONDS = 10.0  # for hospitals to confirm the end of the job


def create_server_app(job: Job | None = None) -> ServerApp:
    """Return the application, for `job` or else for the signed job in Flower's run configuration."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        if job:
            run_job(grid, job)
        else:
            run_signed_job(grid, str(context.run_config["job"]))

    return app


def run_signed_job(grid: Grid, signed_job: str) -> None:
    """Run the federation of a signed job in a separate process; write its log and events for the lead."""
    shorten_pull_backoff()
    job = load_job(LeadHome.find(), signed_job)
    folder = RunDir(Path(job.folder))
    log_path = folder.path / LOG_FILE
    with log_to_file(log_path), folder.lock(SERVER_LOCK, _LOCK_SECONDS), monitor_run(folder, at_server=True):
        try:
            run_job(_carry_statements(grid), job, load_node_names(LeadHome.find()))
            _notify_sites_of_end(grid)
        except FedhealthError as fault:
            folder.append_event("failed", problem=fault.problem, advice=fault.advice)
            raise


def _carry_statements(grid: Grid) -> Grid:
    """Return a grid that carries the members' state statements between all runs of this lead."""
    from fedhealth.flower.server.reply_grid import ReplyGrid  # with Flower's server, which a local run does not need

    home = LeadHome.find()
    membership = SignedMembership.loads(home.membership.read_bytes()).membership
    return StatementCarrier(BundlingGrid(ReplyGrid(grid)), FileStore(home.path / "statements"), membership.roster)


def _notify_sites_of_end(grid: Grid) -> None:
    """Notify the sites that the job is done, so that they end it; it expires at a site that is not connected."""
    nodes = list(grid.get_node_ids())
    contents = {node: RecordDict({"end": ConfigRecord({"node": str(node)})}) for node in nodes}
    try:
        for _ in exchange_messages(grid, END, contents, "end", dict.fromkeys(nodes, _END_SECONDS)):
            pass
    except Exception:
        log.warning("not every site was notified that the job is done", exc_info=True)


def run_job(grid: Grid, job: Job, names: Mapping[int, str] | None = None) -> None:
    """Run the federation of `job` and write the model and its evaluation to the run directory.

    Args:
        grid: Flower's.
        job: of this lead.
        names: of the members by node id, if their nodes are registered.

    """
    config, folder = compose_job_config(job), RunDir(Path(job.folder))
    if job.budget_request is not None:
        sites = tuple(config.data.sites)
        request_reservations(
            grid,
            RunIdentity(job.run, job.digest),
            sites,
            config.strategy,
            job.budget_request,
            folder.append_event,
            names or {},
        )
        return
    initial = build_initial_state(config)
    strategy = build_strategy(config, job, folder, {name: array.shape for name, array in initial.items()}, names)
    if config.purpose is Purpose.describe:
        summed = strategy.describe(grid, config.strategy.round_timeout)
        np.savez(folder.path / COUNTS_FILE, allow_pickle=False, **summed)
        return
    take_initial = [initial].pop
    del initial  # now the strategy takes the only reference
    _, arrays = strategy.run(grid, take_initial, config.strategy.rounds, config.strategy.round_timeout)
    write_array_file(folder.path / "model.safetensors", arrays)
    counts = read_score_counts(strategy.final)
    write_json(folder.path / "evaluation.json", _build_evaluation(counts, config))
    if groups := subgroups.evaluate_subgroups(strategy.final, config):
        write_json(folder.path / GROUPS_FILE, groups)
    np.savez(folder.path / "score_histograms.npz", allow_pickle=False, **_name_histograms(counts))


def build_strategy(
    config: Config, job: Job, folder: RunDir, shapes: Shapes, names: Mapping[int, str] | None = None
) -> FedAvg:
    """Compose the strategy from the configured parts, for shared arrays with these shapes."""
    lead = config.strategy
    aggregation: Aggregation = guard_part(instantiate(lead.aggregation or config.secagg["lead"]), Aggregation)
    aggregation.start(job.run, job.digest, folder.path)
    sites = tuple(config.data.sites)
    rule, reason = find_selection_rule(config)
    fewest = max(lead.min_sites or len(sites), aggregation.required_sites)
    return FedAvg(
        RunIdentity(job.run, job.digest),
        Participation(sites, fewest, lead.quorum, lead.join_timeout, names or {}),
        aggregation,
        instantiate(lead.server_optimizer),
        server_state=instantiate(lead.server_state),
        extra=build_model_method(config.personalization).get_extra_shapes(shapes),
        sends_gradients=config.training.sends is Sends.gradient,
        statistics=get_statistic_shapes(config),
        sensitivities={kind: compute_shared_sensitivity(config, kind) for kind in (EVALUATE, DESCRIBE)},
        attempts=lead.attempts,
        deadlines=ReplyDeadlines(lead.deadline_factor),
        checkpoints=CheckpointStore(folder.path, lead.checkpoints),
        selection=RoundSelection(rule, lead.patience),
        selection_reason=reason,
        average=RoundAverage(lead.ema),
        tables={
            heterogeneity.PROFILE + table.name: table
            for table in heterogeneity.list_heterogeneity_tables(config.data, get_modalities(config))
        },
        event=folder.append_event,
    )


def build_initial_state(config: Config) -> State:
    """Return the initial shared arrays, identical for every run of this configuration and seed."""
    model = build_model(config.model, config.data, config.seed)
    personalization = build_model_method(config.personalization)
    personalization.freeze(model)
    return get_model_arrays(model, sorted(personalization.select_shared(model, list_trained_arrays(model))))


def _build_evaluation(counts: Mapping[str, ScoreHistograms], config: Config) -> dict[str, dict[str, object]]:
    """Return pooled metrics of the final model with confidence intervals, from the summed histograms."""
    resamples, seed = config.evaluation.bootstrap, config.seed
    found: dict[str, dict[str, object]] = {}
    for split, summed in counts.items():
        positives, negatives = summed.count_studies()
        scores = compute_histogram_metrics(summed, resamples, seed)
        found[split] = {
            "studies": int(positives[0] + negatives[0]),
            "positives": positives.tolist(),
            **{name: value.as_dict() for name, value in scores.items()},
            **_describe_error(summed),
        }
    if {"validation", "test"} <= counts.keys():
        found["test"] |= {"calibrated": _describe_calibrated(counts["validation"], counts["test"], config)}
    return found


def _describe_calibrated(validation: ScoreHistograms, test: ScoreHistograms, config: Config) -> dict[str, object]:
    """Return what one calibration for all hospitals brings on test studies; `classes` has null for no calibration."""
    fitted = fit_pooled_calibrations(validation)
    scores = estimate_calibrated_metrics(fitted, test, config.evaluation.bootstrap, config.seed)
    classes = [{name: round(number, 6) for name, number in vars(each).items()} if each else None for each in fitted]
    return {name: value.as_dict() for name, value in scores.items()} | {"classes": classes}


def _describe_error(summed: ScoreHistograms) -> dict[str, object]:
    """Return the error bounds of exact histograms; with noise, the size of the noise and how many classes count."""
    if not summed.noise_std:
        return {"error": {name: round(error, 7) for name, error in bound_errors(summed).items()}}
    return {"noise": describe_histogram_noise(summed)}


def _name_histograms(counts: Mapping[str, ScoreHistograms]) -> dict[str, np.ndarray]:
    """Return `<split>.positives` and `<split>.negatives`, each [K, bins], and `<split>.noise_std` if there is noise."""
    sides = {f"{split}.{side}": getattr(summed, side) for split, summed in counts.items() for side in SIDES}
    return sides | {
        f"{split}.noise_std": np.array(summed.noise_std) for split, summed in counts.items() if summed.noise_std
    }


app = create_server_app()
