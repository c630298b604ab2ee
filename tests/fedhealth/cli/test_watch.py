import threading

import pytest

from fedhealth.cli import watch
from fedhealth.errors import ConfigError
from fedhealth.runs.run_dir import RunDir


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "_IDLE_SECONDS", 0.05)
    monkeypatch.setenv("COLUMNS", "200")
    run = RunDir(tmp_path / "run")
    run.create(run="x")
    return run


def test_it_follows_to_the_end(run, capsys):
    began = threading.Event()

    def work():
        with run.lock():
            began.set()
            run.append_event("started", rounds=1)
            run.append_event("caution", title="Epsilon 99 promises little", text="Use less.")
            run.append_event("round_started", round=1, sites=["a"])
            done = {"seconds": 1.0, "sites": ["a"], "pooled": {"validation": {"auroc": 0.75}}}
            run.append_event("round_completed", round=1, **done)
            (run.path / "report.html").write_text("")
            run.mark_completed()

    worker = threading.Thread(target=work)
    worker.start()
    began.wait()
    watch.run_watch(run.path)
    worker.join()
    shown = capsys.readouterr().out
    assert "round 1: incoming model's validation AUROC 0.750" in shown
    assert "Epsilon 99 promises little. Use less." in shown
    assert shown.rstrip().endswith("report.html")
    assert "\ncompleted\n" in shown


def test_a_failure_is_said(run, capsys):
    run.mark_failed(ConfigError("No site [answered]."))
    watch.run_watch(run.path)
    assert "failed No site [answered]." in capsys.readouterr().out


def test_a_run_that_nobody_holds_is_not_watched_for_ever(run, capsys):
    watch.run_watch(run.path)
    assert "No process here runs it" in capsys.readouterr().out


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run"):
        watch.run_watch(tmp_path)
