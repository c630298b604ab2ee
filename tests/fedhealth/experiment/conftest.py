"""A sweep of tiny runs through the command line, in this process."""

import os

import pytest

from fedhealth.cli.main import main


@pytest.fixture
def fedhealth(monkeypatch, capfd, tmp_path):
    """`fedhealth(*arguments)`: type a command in an empty working directory; return exit code and what was shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def typed(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", ["fedhealth", *arguments])
            patch.setenv("HYDRA_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR", "1"))
            with pytest.raises(SystemExit) as stopped:
                main()
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out + err

    return typed
