"""One run, from its specification to a finished run directory: check, prepare, train, compare, report."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from fedhealth.config.instantiate import instantiate
from fedhealth.config.part_contracts import check_built_parts
from fedhealth.config.schema import Config, Purpose
from fedhealth.data.dataset import prepare_dataset
from fedhealth.data.findings import dump_findings
from fedhealth.errors import ConfigError, DataError, FedhealthError, PrivacyError
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.monitor.run_metrics import monitor_run
from fedhealth.protocol.budget_request import BudgetRequest
from fedhealth.protocol.messages import get_versions
from fedhealth.runs.run_dir import COUNTS_FILE, LOG_FILE, MODEL_DIR, STATISTICS_FILE, RunDir, log_to_file
from fedhealth.utils.atomic_io import write_atomic, write_json
from fedhealth.utils.extras import require_module
from fedhealth.utils.git_revision import read_git_revision
from fedhealth.utils.own_code import explain_own_code, explained_own_code
from fedhealth.utils.privacy_text import describe_privacy

RUN_MODULES = ("torch", "fedhealth.training.check_model")
"""What a run imports when it needs it: a process that is there for runs may do so beforehand."""


@explained_own_code()
def launch_run(spec: RunSpec) -> None:
    """Run the federation and write all its results into the run directory, which must not hold a run yet.

    A configuration that is refused leaves nothing there, and what a run leaves that failed while it read the data is
    replaced: the corrected command may name the same directory.

    Raises:
        FedhealthError: any error that is not a bug; run.json records it too, once the configuration is accepted.

    """
    run = spec.run_dir
    require_module("matplotlib")  # of the report, at the end of the run
    _check_run(spec)
    tracking = _track_run(spec)
    _create_run_dir(spec, versions=get_versions(), revision=read_git_revision())
    with run.lock(), tracking, monitor_run(run), _log_to_run_dir(run):
        _record_configuration(spec)
        _execute_run(spec)


def request_reservation(budget_request: BudgetRequest, spec: RunSpec) -> dict[str, float]:
    """Ask the sites to reserve the budget that a sweep's runs will spend; return, by site, their joint epsilon.

    Args:
        budget_request: the sweep's budget request.
        spec: one of its runs, which decides who is asked and how, with a directory for the request; an earlier request
            in that directory is replaced.

    Raises:
        FederationError: too few sites reserve the budget; the message lists each site's reasons.

    """
    run = spec.run_dir
    for name in ("run.json", "events.jsonl"):
        (run.path / name).unlink(missing_ok=True)
    _check_run(spec)
    _create_run_dir(spec, reservation_only=True)
    with run.lock(), _log_to_run_dir(run):
        _record_configuration(spec)
        instantiate(spec.settings.runtime).launch(replace(spec.job, budget_request=budget_request))
    reserved = [event for event in run.read_events()[0] if event["event"] == "reserved"]
    return dict(reserved[-1]["sites"]) if reserved else {}


@explained_own_code()
def resume_run(run: RunDir) -> None:
    """Resume a run that was killed, stopped or failed, after its last completed round.

    Raises:
        FedhealthError: there is no such run, it is completed or running, its configuration now composes to something
            else, or any error that `launch_run` raises.

    """
    info = run.info
    if not info.digest or info.reservation_only:
        raise ConfigError(f"{run.path} holds no run that can be resumed.", "Give the folder that has its run.json.")
    if info.state == "completed":
        raise ConfigError(f"The run in {run.path} is completed.", "Its report is there; start a new run.")
    with run.lock():
        overrides = info.job or info.overrides  # the job's are valid in any working directory
        config_dir = Path(info.config_dir) if info.config_dir else None
        spec = RunSpec.compose(overrides, run, config_dir, info.run)
        if spec.digest != info.digest:
            raise _explain_changed_config(spec)
        run.update_info(state="running", error=None)
        run.append_event("resuming")
        with _track_run(spec), monitor_run(run), _log_to_run_dir(run):
            _check_run(spec)
            _record_configuration(spec)
            _execute_run(spec)


def _create_run_dir(spec: RunSpec, **fields: object) -> None:
    spec.run_dir.create(run=spec.run_id, overrides=spec.overrides, config_dir=str(spec.config_dir or ""), **fields)


@contextmanager
def _log_to_run_dir(run: RunDir) -> Iterator[None]:
    """Write the log into the run directory, and the outcome of the block into run.json."""
    with log_to_file(run.path / LOG_FILE):
        try:
            yield
            run.mark_completed()
        except BaseException as fault:
            run.mark_failed(fault if isinstance(fault, FedhealthError) else explain_own_code(fault) or fault)
            raise


def _track_run(spec: RunSpec) -> AbstractContextManager[None]:
    """Send the run to the configured tracker when it has ended, successfully or not."""
    from fedhealth.experiment.tracking import track_run

    return track_run(spec.config.tracking, spec.run_dir) if spec.config.tracking else nullcontext()


def _explain_changed_config(spec: RunSpec) -> ConfigError:
    """Return the error for a run that cannot be resumed under another configuration, with the differences."""
    path = spec.run_dir.path
    then = (path / "config.yaml").read_text("utf-8").splitlines()
    now = OmegaConf.to_yaml(spec.config, resolve=True).splitlines()
    lines = [line for line in difflib.unified_diff(then, now, "then", "now", lineterm="", n=0) if line[:1] in "+-"]
    differences = "\n  ".join(lines[2:12]) or "the digest alone: another release of fedhealth"
    return ConfigError(
        f"The configuration of {path} is no longer what the run was started with:\n  {differences}",
        "Restore it, or start a new run.",
    )


def _check_run(spec: RunSpec) -> None:
    """Check the configuration, and before training its model."""
    spec.check()
    check_built_parts(spec.settings)
    if spec.settings.purpose is Purpose.train:
        from fedhealth.training.check_model import check_model

        check_model(spec.settings)


def _record_configuration(spec: RunSpec) -> None:
    """Write the configuration into the run directory, with what its parts declare."""
    job = spec.job
    spec.run_dir.update_info(
        name=spec.settings.name,
        digest=job.digest,
        job=job.overrides,
        capabilities=spec.capabilities,
    )
    write_atomic(spec.run_dir.path / "config.yaml", OmegaConf.to_yaml(spec.config, resolve=True).encode())


def _execute_run(spec: RunSpec) -> None:
    run, config, data_are_local = spec.run_dir, spec.settings, spec.capabilities.data_are_local
    if spec.capabilities.trainer_is_private:
        run.append_event("private", text=describe_privacy(spec.plain["privacy"]))
    for title, text in spec.list_warnings():
        run.append_event("caution", title=title, text=text)
    runtime = instantiate(config.runtime)
    if data_are_local:
        from fedhealth.experiment.warm_workers import prepare_workers

        prepare_workers(config, spec.plain)
        _prepare_sites(config, run)
    runtime.launch(spec.job)
    if config.purpose is Purpose.describe:
        _write_statistics(config, run)
        return
    from fedhealth.export.model import save_model
    from fedhealth.export.model_card import CARD_FILE, build_model_card
    from fedhealth.report.render import render_run_report

    save_model(spec.config, load_file(run.path / "model.safetensors"), run.path / MODEL_DIR)
    _write_calibrations(config, run)
    failed: list[str] = []
    if data_are_local:
        from fedhealth.experiment.rehearsal import assess_rehearsal

        failed = assess_rehearsal(spec.job, config, run)
    write_atomic(run.path / MODEL_DIR / CARD_FILE, build_model_card(run.path).encode())
    write_atomic(run.path / "report.html", render_run_report(run.path).encode())
    if failed:
        raise PrivacyError(f"The audit failed: {'; '.join(failed)}.", "See the report; do not train with this release.")


def _write_calibrations(config: Config, run: RunDir) -> None:
    """Write the pooled scores beside the model, and the calibration of every site whose own scores are here."""
    from fedhealth.evaluation.predictions import ScoreHistograms
    from fedhealth.runs.hospital_calibration import find_own_scores, write_calibration, write_pooled_scores
    from fedhealth.runs.load_record import load_run_record
    from fedhealth.runs.score_file import CALIBRATION_FILE, OWN_SCORES_FILE, POOLED_SCORES_FILE, load_score_file

    path, counts = run.path / MODEL_DIR / POOLED_SCORES_FILE, load_run_record(run.path).histograms.get("validation")
    pooled = ScoreHistograms(counts.positives, counts.negatives, counts.noise_std) if counts else None
    write_pooled_scores(path, load_file(run.path / "model.safetensors"), pooled)
    for folder in map(run.site_dir, config.data.sites):
        own = find_own_scores(load_score_file(path), folder.glob(OWN_SCORES_FILE))
        if own is not None:  # else the site is elsewhere, or was absent at the end
            write_calibration(own, load_score_file(path), folder.name, folder / CALIBRATION_FILE)


def _write_statistics(config: Config, run: RunDir) -> None:
    """Compute statistics from the summed counts; then remove the raw sums, which include small counts."""
    from fedhealth.report.descriptive_page import build_descriptive_page, compute_statistics, format_statistics
    from fedhealth.report.render import render_page
    from fedhealth.runs.load_record import load_run_record

    with np.load(run.path / COUNTS_FILE, allow_pickle=False) as stored:
        statistics = compute_statistics({name: stored[name] for name in stored.files}, config)
    write_json(run.path / STATISTICS_FILE, statistics)
    (run.path / COUNTS_FILE).unlink()
    run.append_event("described", lines=format_statistics(statistics))
    page = render_page(lambda: build_descriptive_page(statistics, load_run_record(run.path)))
    write_atomic(run.path / "report.html", page.encode())


def _prepare_sites(config: Config, run: RunDir) -> None:
    """Read every site's files once before training, so that the user sees any error in full.

    Raises:
        DataError: as for a site's data, or the data changed since the run was started.
        ConfigError: training is to end early by scores that no round has.

    """
    has_validation = False
    before = {each["site"]: each.get("digest") for each in run.read_events()[0] if each["event"] == "prepared"}
    for site in config.data.sites:

        def progress(done: int, total: int, site: str = site) -> None:
            run.append_event("preparing", site=site, done=done, total=total)

        progress(0, 0)
        cohort = prepare_dataset(config.data, site, progress)
        if before.get(site) not in (None, cohort.digest):
            raise DataError(
                f"The data of {site} changed since this run was started.", "Restore them, or start a new run."
            )
        reasons = [entry.reason for entry in cohort.rejected]
        told = {"counts": cohort.counts(), "findings": dump_findings(cohort.findings), "rejected": reasons}
        run.append_event("prepared", site=site, digest=cohort.digest, **told)
        has_validation |= bool(len(cohort.rows("validation")))
    _require_scores(config, has_validation)


def _require_scores(config: Config, has_validation: bool) -> None:
    if config.purpose is Purpose.train and config.strategy.patience is not None and not has_validation:
        raise ConfigError(
            "strategy.patience: no site has a labelled validation row, so no round has a score and training would "
            "never end early.",
            "Name validation rows in data.columns.split, give data.split.validation a share, or set "
            "strategy.patience=null.",
        )
