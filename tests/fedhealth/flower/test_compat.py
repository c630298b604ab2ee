"""A server application gets its token in memory: no command line shows it."""

import time

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec

from fedhealth.flower.compat import hide_task_tokens

TOKEN = "0123456789abcdef" * 4
PROGRAM = """#!/bin/sh
echo "$@" > {folder}/words
for word; do
  if [ "$last" = --token-file ]; then cat "$word" > {folder}/token; fi
  last=$word
done
touch {folder}/done
"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as Flower, it leaves the process alone
def test_a_task_token_is_on_no_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(SubprocessExecutor, "launch", SubprocessExecutor.launch)  # restored afterwards
    hide_task_tokens()
    program = tmp_path / "flwr-serverapp"
    program.write_text(PROGRAM.format(folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    spec = ExecutionSpec(TaskType.SERVER_APP, "127.0.0.1:9", TOKEN, True, None, False, 42, False, 1)
    SubprocessExecutor().launch(spec)
    ends = time.monotonic() + 30
    while not (tmp_path / "done").exists():
        assert time.monotonic() < ends
        time.sleep(0.01)
    words = (tmp_path / "words").read_text().split()
    assert words[:2] == ["--runtime-api-address", "127.0.0.1:9"]
    assert words[4:] == ["--insecure", "--parent-pid", "42"]
    assert TOKEN not in " ".join(words)
    assert (tmp_path / "token").read_text() == TOKEN
