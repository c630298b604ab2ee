"""`fedhealth site setup` on this machine: another account, its own folder, the unit's restrictions, a real check."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedhealth.cli.site_service import run_setup
from fedhealth.data.synthetic import write_hospitals
from fedhealth.errors import ConfigError, TrustError
from fedhealth.site.policy import DataSource, ProxySettings, load_policy
from fedhealth.site.setup import MachineSetup
from fedhealth.site.setup_plan import UNIT_NAME, SetupAnswers

ROOT = Path(__file__).resolve().parents[3]
ACCOUNT = "nobody"
LIBRARIES = next(path for path in sys.path if path.endswith("site-packages"))
PYTHON = "/usr/bin/python3"  # the account can start it, wherever this test's own Python lies
PROGRAM = f"""#!/bin/sh
PYTHONPATH={ROOT}:{LIBRARIES} PYTHONDONTWRITEBYTECODE=1 exec {PYTHON} -m fedhealth.cli.main "$@"
"""


def account_can_run():
    """Return whether another account can import this checkout with the system's Python."""
    if os.geteuid() != 0 or shutil.which("bwrap") is None:
        return False
    code = "import sys, fedhealth.cli.main, cryptography; assert sys.version_info[:2] == " + str(sys.version_info[:2])
    account = pwd.getpwnam(ACCOUNT)
    return (
        subprocess.run(
            [PYTHON, "-c", code],
            env={"PYTHONPATH": f"{ROOT}:{LIBRARIES}"},
            cwd="/",
            user=account.pw_uid,
            group=account.pw_gid,
            capture_output=True,
        ).returncode
        == 0
    )


pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(not account_can_run(), reason="needs root, bubblewrap, and a system Python like this one"),
]


@pytest.fixture(name="place")
def place_():
    """A folder outside of /tmp, which the service does not see."""
    folder = Path(tempfile.mkdtemp(prefix="fedhealth-test-", dir="/srv"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def build_setup(place, lines, **changes):
    program = place / "fedhealth"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    answers = SetupAnswers(
        "charite", "127.0.0.1:9", changes.get("data", {}), changes.get("proxy", ProxySettings()), ACCOUNT,
        place / "home", place / "units",
    )  # fmt: skip
    return MachineSetup(answers, [str(program)], lines.append)


def test_a_setup_makes_folder_keys_policy_and_unit_that_fit_each_other(place, capfd):
    [name] = write_hospitals(place / "data", patients=40, sites=1)
    password = place / "password"
    password.write_text("user:secret\n")
    data = {"demo": DataSource("ward-7", place / "data" / name)}
    lines = []
    setup = build_setup(place, lines, data=data, proxy=ProxySettings("http://127.0.0.1:9", password))
    setup.prepare_machine()
    home, owner = place / "home", pwd.getpwnam(ACCOUNT).pw_uid
    assert {path.stat().st_uid for path in home.rglob("*")} == {owner}
    assert (home.stat().st_mode & 0o777, home.stat().st_uid) == (0o700, owner)
    assert (home / "proxy-password.txt").stat().st_mode & 0o777 == 0o600
    assert f"ReadWritePaths={home}\n" in (place / "units" / UNIT_NAME).read_text()
    again = len(lines)
    setup.prepare_machine()  # a second time changes nothing
    assert len(lines) == again
    capfd.readouterr()
    assert setup.run_check() == 9  # there is no kit yet
    shown = capfd.readouterr().out
    assert "ward" not in shown
    assert (home / "cache").is_dir()  # written by the service, inside the only folder that it may write to
    check = json.loads((home / "run" / "last_check.json").read_text())
    assert check


def test_the_check_sees_what_the_service_sees(place, capfd):
    """Data that only root can read: a check by root would pass."""
    [name] = write_hospitals(place / "data", patients=40, sites=1)
    (place / "data" / name).chmod(0o700)
    setup = build_setup(place, [], data={"demo": DataSource("ward-7", place / "data" / name)})
    setup.prepare_machine()
    setup.run("site", "status", restricted=False)
    capfd.readouterr()
    assert setup.run_check() == 9
    out = capfd.readouterr().out
    assert "data demo" in out
    assert "FAIL" in out.partition("data demo")[2].splitlines()[0]


def test_what_contradicts_the_answers_is_an_error(place):
    build_setup(place, []).prepare_machine()
    policy = place / "home" / "site.yaml"
    policy.write_text(policy.read_text() + "# edited\n")
    (place / "data").mkdir()
    other = {"demo": DataSource("ward-8", place / "data")}
    with pytest.raises(ConfigError, match="says something else about data"):
        build_setup(place, [], data=other).prepare_machine()
    os.chown(place / "home", 0, 0)
    with pytest.raises(TrustError, match="does not belong to nobody"):
        build_setup(place, []).prepare_machine()


def test_a_setup_that_was_killed_after_its_first_step_goes_on(place):
    """The keys and a site.yaml without data are there already: they are the setup's own."""
    [name] = write_hospitals(place / "data", patients=40, sites=1)
    data = {"demo": DataSource("ward-7", place / "data" / name)}
    setup = build_setup(place, [], data=data)
    setup._write_policy = lambda known: sys.exit(137)
    with pytest.raises(SystemExit):
        setup.prepare_machine()
    assert load_policy(setup.home).data == {}
    build_setup(place, [], data=data).prepare_machine()
    assert load_policy(setup.home).data == data


def test_a_folder_that_is_not_there_changes_nothing(place):
    answers = place / "setup.yaml"
    answers.write_text(
        f"name: charite\nlead: 127.0.0.1:9\nuser: {ACCOUNT}\nhome: {place}/home\nunits: {place}/units\n"
        f"data: {{demo: {{dataset: ward-7, root: {place}/gone}}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        run_setup(answers, None, None)
    assert caught.value.problem == f"{answers}: data.demo.root: there is no folder {place}/gone."
    assert not (place / "home").exists()


def test_a_damaged_kit_is_refused_and_removed(place):
    setup = build_setup(place, [])
    setup.prepare_machine()
    with pytest.raises(TrustError, match="exit code 8"):
        setup.install_kit(b"no zip", "0000")
    assert not list((place / "home").glob("*.zip"))
