"""Answers of a setup, and the unit and policy that follow from them."""

import sys
from pathlib import Path

import pytest
import yaml

from fedhealth.errors import ConfigError
from fedhealth.site.home import SiteHome
from fedhealth.site.init import init_site
from fedhealth.site.policy import DataSource, ProxySettings, load_policy
from fedhealth.site.run_as_service import build_bubblewrap_command, build_systemd_command
from fedhealth.site.setup import find_program
from fedhealth.site.setup_plan import (
    SetupAnswers,
    find_machine_faults,
    load_setup_answers,
    read_unit_environment,
    read_unit_settings,
    render_policy_sections,
    render_unit,
)

ROOT = Path(__file__).resolve().parents[3]
ANSWERS = {
    "name": "klinikum",
    "lead": "lead.hospital.test:443",
    "data": {"chest": {"dataset": "ward-7", "root": "/srv/ward-7", "columns": {"label": "finding"}}},
    "proxy": {"address": "http://proxy.hospital.test:3128", "credentials": "/root/password"},
    "user": "flc",
    "home": "/data/fedhealth",
}


def load(tmp_path, **changes):
    path = tmp_path / "setup.yaml"
    path.write_text(yaml.safe_dump(ANSWERS | changes))
    return load_setup_answers(path)


def test_the_file_of_a_release_is_valid_once_it_was_edited(tmp_path):
    path, text = tmp_path / "setup.yaml", (ROOT / "scripts" / "setup.yaml").read_text()
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"lead\.example:9092 is the example that this file came with"):
        load_setup_answers(path)
    path.write_text(text.replace("lead.example", "lead.hospital.test"))
    answers = load_setup_answers(path)
    assert (answers.user, answers.home) == ("fedhealth", Path("/var/lib/fedhealth"))


def test_what_this_machine_does_not_have_is_named_before_anything_is_changed(tmp_path):
    data, secret = tmp_path / "ward", tmp_path / "password"
    proxy = ProxySettings("http://proxy.hospital.test:3128", secret)
    answers = SetupAnswers("charite", "lead.hospital.test:443", {"chest": DataSource("a", data)}, proxy)
    assert find_machine_faults(answers) == [
        f"data.chest.root: there is no folder {data}.",
        f"proxy.credentials: {secret} cannot be read (No such file or directory).",
    ]
    data.mkdir()
    secret.write_text("only-a-name")
    assert find_machine_faults(answers) == [f"proxy.credentials: {secret} does not hold one line user:password."]
    secret.write_text("user:word")
    assert find_machine_faults(answers) == []


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "Klinikum"}, "name: 'Klinikum' is not a valid site name"),
        ({"lead": "lead.example"}, "lead: 'lead.example' is not host:port"),
        ({"user": "root"}, "without special rights"),
        ({"user": "a b"}, "without special rights"),
        ({"home": "relative"}, "home: relative must be absolute"),
        ({"home": "/var/lib/fed health"}, "without blanks"),
        ({"data": {"chest": {"dataset": "a", "root": "/tmp/data"}}}, "/tmp of its own"),
        ({"data": {"chest": {"dataset": "a", "root": "data"}}}, "must be absolute"),
        ({"data": {"chest": {"dataset": "a", "root": "/srv/a", "cache": "/srv/c"}}}, "remove this line"),
        ({"nmae": "klinikum"}, "nmae: there is no such key"),
    ],
)
def test_a_wrong_answer_is_named(tmp_path, changes, match):
    with pytest.raises(ConfigError, match=match):
        load(tmp_path, **changes)


def test_the_unit_is_that_of_the_user_the_folder_and_the_installation(tmp_path):
    unit = render_unit(load(tmp_path), Path("/opt/fedhealth-1.0/bin/fedhealth"))
    settings, environment = dict(read_unit_settings(unit)), read_unit_environment(unit)
    assert settings["User"] == "flc"
    assert settings["ReadWritePaths"] == "/data/fedhealth"
    assert settings["ExecStart"] == "/opt/fedhealth-1.0/bin/fedhealth site start"
    assert environment["FEDHEALTH_HOME"] == environment["HOME"] == "/data/fedhealth"
    assert environment["FEDHEALTH_CACHE"] == "/data/fedhealth/cache"
    assert "/var/lib/fedhealth" not in unit.partition("[Unit]")[2]


def test_the_policy_has_the_data_and_the_proxy_and_strict_limits(tmp_path):
    answers, home = load(tmp_path), SiteHome(tmp_path / "home")
    init_site(home, answers.name, answers.lead)
    strict = load_policy(home).limits
    with home.policy.open("a") as file:
        file.write(render_policy_sections(answers, Path("/data/fedhealth/proxy-password.txt")))
    policy = load_policy(home)
    assert policy.data == {"chest": DataSource("ward-7", Path("/srv/ward-7"), columns={"label": "finding"})}
    assert policy.proxy.address == "http://proxy.hospital.test:3128"
    assert policy.proxy.credentials == Path("/data/fedhealth/proxy-password.txt")
    assert policy.limits == strict


def test_systemd_is_given_every_restriction_of_the_unit(tmp_path):
    unit = render_unit(load(tmp_path), Path("/opt/fedhealth/bin/fedhealth"))
    command = build_systemd_command(unit, ["/opt/fedhealth/bin/fedhealth", "site", "check"])
    assert command[-4:] == ["--", "/opt/fedhealth/bin/fedhealth", "site", "check"]
    for setting in ("ProtectSystem=strict", "PrivateTmp=yes", "User=flc", "ReadWritePaths=/data/fedhealth"):
        assert f"--property={setting}" in command
    assert [word for word in command if word.startswith("--property=SystemCallFilter=")]
    assert "--setenv=FEDHEALTH_HOME=/data/fedhealth" in command
    assert not [word for word in command if "Restart" in word or "ExecStart" in word]


def test_bubblewrap_opens_one_folder_for_writing():
    command = build_bubblewrap_command(["/data/fedhealth"], ["/bin/true"])
    assert command[command.index("--bind") : command.index("--bind") + 3] == ["--bind"] + ["/data/fedhealth"] * 2
    assert command.count("--bind") == 1
    assert command[command.index("--ro-bind") + 1] == "/"


@pytest.mark.parametrize("link", [True, False])
def test_the_unit_names_the_program_as_it_was_started(tmp_path, monkeypatch, link):
    """/opt/fedhealth leads to the installed release; an upgrade changes the link, and the unit follows it."""
    program = tmp_path / "fedhealth-0.1.0" / "bin" / "fedhealth"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / "fedhealth").symlink_to(tmp_path / "fedhealth-0.1.0")
    started = tmp_path / "fedhealth" / "bin" / "fedhealth" if link else program
    monkeypatch.setattr(sys, "argv", [str(started), "site", "setup"])
    assert find_program() == [str(started)]
