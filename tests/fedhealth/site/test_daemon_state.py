"""`fedhealth site stop` ends the site's own process and no other."""

import os
import subprocess
import sys

import pytest

from fedhealth.errors import ConfigError
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome

HOLD = """
import sys, time
from pathlib import Path
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
with DaemonState(SiteHome(Path(sys.argv[1]))).lock():
    print("locked", flush=True)
    time.sleep(120)
"""


@pytest.fixture(name="holder")
def holder_(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_the_process_that_holds_the_lock_is_stopped(holder, tmp_path):
    assert DaemonState(SiteHome(tmp_path)).stop()
    assert holder.wait(20) != 0
    assert not DaemonState(SiteHome(tmp_path)).stop()


def test_a_number_of_another_process_is_not_killed(holder, tmp_path):
    """In a container the site has a number of its own, which means another process here."""
    state = DaemonState(SiteHome(tmp_path))
    (tmp_path / "run" / "lock").write_text(str(os.getpid()))
    with pytest.raises(ConfigError, match="runs in a container, or as another user") as caught:
        state.stop()
    assert "systemctl stop fedhealth-site" in caught.value.advice
    assert holder.poll() is None
