"""Work side by side or one after another: the same results, and parts that the server imports beforehand."""

import os

import pytest

from fedhealth.config.compose import compose_config
from fedhealth.errors import ConfigError, DataError
from fedhealth.experiment import warm_workers
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.experiment.warm_workers import compute_each, prepare_workers, start_workers
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import RunDir

JOB = Job("run", (), "", "nowhere")


def tell(name, job):
    if name == "bad":
        raise DataError("the table has no column age", "Add it.")
    return job.run, os.getpid(), os.environ.get("FEDHEALTH_TOLD")


def test_one_worker_is_this_process_and_computes_what_is_asked_for():
    with start_workers(1) as pool:
        results = compute_each(tell, ["good", "bad"], JOB, pool)
        assert next(results) == ("good", ("run", os.getpid(), None))
        with pytest.raises(DataError, match="column age"):
            next(results)


def test_others_have_this_process_environment_and_raise_its_errors(monkeypatch):
    monkeypatch.setenv("FEDHEALTH_TOLD", "yes")
    with start_workers(2) as pool:
        found = dict(compute_each(tell, ["one", "two", "three"], JOB, pool))
        assert set(found) == {"one", "two", "three"}
        assert os.getpid() not in {process for _, process, _ in found.values()}
        assert {told for _, _, told in found.values()} == {"yes"}
        with pytest.raises(DataError, match="column age"):
            list(compute_each(tell, ["bad"], JOB, pool))


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (["baselines.workers=1"], []),
        (["runtime.workers=2"], ["fedhealth.training.dpsgd_trainer", "clients.app"]),
        (["baselines.workers=2"], ["fedhealth.training.dpsgd_trainer", "clients.app"]),
        (["baselines.workers=1", "runtime=simulation"], []),
    ],
)
def test_the_server_imports_the_parts_of_the_run_if_it_has_processes(workers, expected, monkeypatch):
    started = []
    monkeypatch.setattr(warm_workers, "start_server", started.extend)
    words = ["data.root=x", "privacy=patient", *workers]
    assert compose_config(words)
    spec = RunSpec.compose(words, RunDir("nowhere"))
    prepare_workers(spec.settings, spec.plain)
    assert set(expected) <= set(started)
    assert bool(started) == bool(expected)


@pytest.mark.parametrize("workers", ["runtime.workers=2", "baselines.workers=2"])
def test_a_part_in_the_calling_script_is_refused_as_no_worker_can_import_it(workers, monkeypatch):
    monkeypatch.setattr(warm_workers, "start_server", pytest.fail)
    words = ["data.root=x", "model.tabular._target_=__main__.Encoder"]
    spec = RunSpec.compose([*words, workers], RunDir("nowhere"))
    with pytest.raises(ConfigError, match=r"cannot import __main__\.Encoder(?s:.)*Move it into a module"):
        prepare_workers(spec.settings, spec.plain)
    spec = RunSpec.compose([*words, "baselines.workers=1"], RunDir("nowhere"))
    prepare_workers(spec.settings, spec.plain)
