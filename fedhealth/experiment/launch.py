"""One run from a composed configuration to a finished run directory: check, prepare, federate, compare, report."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from safetensors.numpy import load_file

from fedhealth.config.compose import compose, digest, quoted, resolve
from fedhealth.config.instantiate import instantiate
from fedhealth.config.method_consistency import check_halves
from fedhealth.config.schema import Config, Purpose
from fedhealth.config.validate import validate
from fedhealth.config.warnings import cautions
from fedhealth.data.dataset import prepare
from fedhealth.errors import ConfigError
from fedhealth.monitor.run_metrics import told
from fedhealth.protocol.budget_request import Planned, Statement
from fedhealth.protocol.job import Job, config_of
from fedhealth.protocol.messages import versions
from fedhealth.runs.run_dir import COUNTS, MODEL, STATISTICS, RunDir, logged_to
from fedhealth.utils.atomic_io import write_atomic, write_json
from fedhealth.utils.git_revision import revision


def launch(
    config: DictConfig, words: Sequence[str], run: RunDir, config_dir: str = "", name: str | None = None
) -> None:
    """Run the federation that `config` describes and leave everything about it in `run`.

    Args:
        config: composed from `words`.
        words: the override words, composed again by lead and sites.
        run: the run directory; must not hold a run yet.
        config_dir: a further folder of configuration files, empty for none.
        name: the run's id where one was chosen for it, see `fedhealth.experiment.sweep_reserve`.

    Raises:
        FedhealthError: anything that is not a bug; run.json says so too.

    """
    name = name or new_id()
    made = {"versions": versions(), "revision": revision()}
    run.begin({"run": name, **made, "words": list(words), "config_dir": config_dir})
    with run.held(), _tracked(config, run), told(run), _logged(run):
        _run(_job(name, config, words, run, config_dir), run)


def new_id() -> str:
    """Return an id that no other run has."""
    return uuid.uuid4().hex[:12]


def planned(name: str, config: DictConfig, words: Sequence[str]) -> Planned:
    """Return a run as a sweep states it before it is launched under this id."""
    return Planned(name, _words_anywhere(config, words), digest(config))


def reserve(
    statement: Statement, config: DictConfig, words: Sequence[str], run: RunDir, config_dir: str = ""
) -> dict[str, float]:
    """Ask the sites to reserve what a sweep's runs will spend; return, by site, the epsilon of them together.

    Args:
        statement: the sweep's.
        config: of one of its runs: who is asked, and how.
        words: it is composed from.
        run: a directory for the question; what an earlier one left is replaced.
        config_dir: a further folder of configuration files, empty for none.

    Raises:
        FederationError: too few reserve it, with each site's reasons.

    """
    for name in ("run.json", "events.jsonl"):
        (run.path / name).unlink(missing_ok=True)
    name = new_id()
    run.begin({"run": name, "words": list(words), "config_dir": config_dir, "question": True})
    with run.held(), _logged(run):
        job = replace(_job(name, config, words, run, config_dir), statement=statement)
        instantiate(config_of(job).runtime).launch(job)
    told = [event for event in run.events()[0] if event["event"] == "reserved"]
    return dict(told[-1]["sites"]) if told else {}


def resume(run: RunDir) -> None:
    """Go on with a run that was killed, stopped or failed, after its last completed round.

    Raises:
        FedhealthError: there is no such run, it is completed or running, its configuration now composes to something
            else, or anything that `launch` raises.

    """
    about = run.about
    if "digest" not in about or about.get("question"):
        raise ConfigError(f"{run.path} holds no run that could go on.", "Give the folder that has its run.json.")
    if about["state"] == "completed":
        raise ConfigError(f"The run in {run.path} is completed.", "Its report is there; start a new run.")
    with run.held():
        words = about.get("job") or about["words"]  # the job's hold in any working directory
        config = compose(words, Path(about["config_dir"]) if about["config_dir"] else None)
        if digest(config) != about["digest"]:
            raise _changed(run, config)
        run.update(state="running", error=None)
        run.event("resuming")
        with _tracked(config, run), told(run), _logged(run):
            _run(_job(about["run"], config, words, run, about["config_dir"]), run)


@contextmanager
def _logged(run: RunDir) -> Iterator[None]:
    """Write the log into the run directory, and how the block ended into run.json."""
    with logged_to(run.path / "fedhealth.log"):
        try:
            yield
            run.complete()
        except BaseException as fault:
            run.fail(fault)
            raise


def _tracked(config: DictConfig, run: RunDir) -> AbstractContextManager[None]:
    """Tell the run to the configured tracker when it has ended, however it ended."""
    from fedhealth.experiment.tracking import tracked

    return tracked(config.tracking, run) if config.tracking else nullcontext()


def _changed(run: RunDir, config: DictConfig) -> ConfigError:
    """Return the refusal to resume under another configuration, naming what differs."""
    then = (run.path / "config.yaml").read_text("utf-8").splitlines()
    now = OmegaConf.to_yaml(config, resolve=True).splitlines()
    lines = [line for line in difflib.unified_diff(then, now, "then", "now", lineterm="", n=0) if line[:1] in "+-"]
    differences = "\n  ".join(lines[2:12]) or "the digest alone: another release of fedhealth"
    return ConfigError(
        f"The configuration of {run.path} is no longer what the run was started with:\n  {differences}",
        "Restore it, or start a new run.",
    )


def _job(name: str, config: DictConfig, words: Sequence[str], run: RunDir, config_dir: str) -> Job:
    """Check the configuration and return the job it is, written down in the run directory."""
    validate(config)
    check_halves(words, Path(config_dir) if config_dir else None)
    job = Job(name, _words_anywhere(config, words), digest(config), str(run.path.resolve()), config_dir)
    run.update(name=config_of(job).name, digest=job.digest, job=list(job.overrides))
    write_atomic(run.path / "config.yaml", OmegaConf.to_yaml(config, resolve=True).encode())
    return job


def _run(job: Job, run: RunDir) -> None:
    from fedhealth.export.model import save_model
    from fedhealth.export.model_card import CARD, card
    from fedhealth.report.render import render

    config = config_of(job)
    for title, text in cautions(resolve(_composed(job))):
        run.event("caution", title=title, text=text)
    runtime = instantiate(config.runtime)
    if runtime.local_data:
        _prepare(config, run)
    runtime.launch(job)
    if config.purpose is Purpose.describe:
        _describe(config, run)
        return
    save_model(_composed(job), load_file(run.path / "model.safetensors"), run.path / MODEL)
    if runtime.local_data:
        from fedhealth.experiment.baselines import compare

        compare(job, config, run)
    write_atomic(run.path / MODEL / CARD, card(run.path).encode())
    write_atomic(run.path / "report.html", render(run.path).encode())


def _describe(config: Config, run: RunDir) -> None:
    """Turn summed counts into statistics; the raw sums, which hold small counts, are removed."""
    from fedhealth.report.descriptive_page import lines, page, statistics
    from fedhealth.report.render import render_page
    from fedhealth.runs.load_record import collect

    with np.load(run.path / COUNTS, allow_pickle=False) as stored:
        found = statistics({name: stored[name] for name in stored.files}, config)
    write_json(run.path / STATISTICS, found)
    (run.path / COUNTS).unlink()
    run.event("described", lines=lines(found))
    write_atomic(run.path / "report.html", render_page(lambda: page(found, collect(run.path))).encode())


def _composed(job: Job) -> DictConfig:
    return compose(job.overrides, Path(job.config_dir) if job.config_dir else None)


def _prepare(config: Config, run: RunDir) -> None:
    """Read every site's files once, before anything is trained: a fault is the user's to see, in full."""
    for site in config.data.sites:

        def progress(done: int, total: int, site: str = site) -> None:
            run.event("preparing", site=site, done=done, total=total)

        progress(0, 0)
        cohort = prepare(config.data, site, progress)
        reasons = [entry.reason for entry in cohort.rejected]
        run.event("prepared", site=site, counts=cohort.counts(), warnings=list(cohort.warnings), rejected=reasons)


def _words_anywhere(config: DictConfig, words: Sequence[str]) -> tuple[str, ...]:
    """Return the words with what makes them hold wherever a worker process runs."""
    data = resolve(config)["data"]
    places = {f"data.{key}": data[key] for key in ("root", "cache")}
    if data["public"]["root"]:
        places["data.public.root"] = data["public"]["root"]
    absolute = [f"{key}={quoted(Path(place).expanduser().resolve())}" for key, place in places.items()]
    return tuple(reversed(dict.fromkeys(reversed([*words, *absolute]))))  # the last word counts
