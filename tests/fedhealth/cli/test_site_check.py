"""`fedhealth site check` and `fedhealth doctor`, as hospital IT and a monitor call them."""

import json

import pytest

from fedhealth.cli.main import main
from fedhealth.errors import NotReadyError
from tests.fedhealth.site.check.tls import Authority, serving
from tests.fedhealth.site.consortium import World


@pytest.fixture(name="call")
def call_(monkeypatch, capfd):
    """`call(*arguments)`: exit code, output and errors of a command."""

    def call(*arguments):
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr("sys.argv", ["fedhealth", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        return stopped.value.code or 0, out, err

    return call


@pytest.fixture(name="lead", scope="module")
def lead_(tmp_path_factory):
    """A server with a certificate of an authority that the consortium takes as its own."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with serving(authority.context()) as address:
        yield authority, address


@pytest.fixture(name="world")
def world_(tmp_path, lead):
    authority, address = lead
    world = World(tmp_path, lead=address, sites=())
    world.lead.ca.write_bytes(authority.path.read_bytes())
    world.add("charite")
    world.install("charite")
    return world


def results(out):
    return {check["name"]: check["status"] for check in json.loads(out)["checks"]}


def test_a_site_that_is_ready(call, world):
    code, out, _ = call("site", "check", "--home", world.homes["charite"].path)
    assert code == 0
    for name in ("Python", "package", "policy", "keys", "disk", "kit", "authority", "lead", "TLS", "clock", "budget"):
        assert name in out
    assert "FAIL" not in out


def test_for_programs_it_is_json_and_nothing_else(call, world):
    home = world.homes["charite"]
    code, out, _ = call("site", "check", "--json", "--home", home.path)
    assert code == 0
    assert json.loads(out)["ready"]
    found = results(out)
    assert found["data"] == "WARN"
    assert {found[name] for name in ("keys", "kit", "TLS", "clock", "audit log")} == {"PASS"}


def test_a_fault_ends_with_its_own_exit_code_and_says_what_to_do(call, world):
    home = world.homes["charite"]
    home.node_key.chmod(0o644)
    code, out, err = call("site", "check", "--json", "--home", home.path)
    assert code == NotReadyError.exit_code
    assert not json.loads(out)["ready"]
    assert results(out)["keys"] == "FAIL"
    assert results(out)["TLS"] == "PASS"  # one fault hides no other
    assert "check(s) failed: keys" in err
    code, out, _ = call("site", "check", "--home", home.path)
    assert "chmod 600" in out
    assert "Traceback" not in out


def test_without_a_policy_the_rest_is_not_looked_at(call, tmp_path):
    code, out, _ = call("site", "check", "--json", "--home", tmp_path / "nowhere")
    assert code == NotReadyError.exit_code
    assert list(results(out))[-1] == "policy"
    assert not (tmp_path / "nowhere").exists()


def test_the_doctor_needs_no_site(call, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDHEALTH_HOME", str(tmp_path / "nowhere"))
    code, out, _ = call("doctor", "--json")
    assert set(results(out)) == {"Python", "package", "package names", "dependencies"}
    assert code == 0
    code, out, _ = call("doctor")
    assert code == 0
    assert "dependencies" in out


def test_nothing_secret_is_shown(call, world):
    home = world.homes["charite"]
    shown = "".join(call("--debug", "site", "check", "--home", home.path)[1:])
    for path in home.keys.iterdir():
        secret = path.read_bytes()
        assert secret.hex() not in shown
        assert not any(line.decode() in shown for line in secret.splitlines() if line.isascii() and len(line) > 30)
