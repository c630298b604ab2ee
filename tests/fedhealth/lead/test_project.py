"""What project.yaml may say; every fault is named at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import ConfigError
from fedhealth.lead.project import Project, find_project_faults, load_project

GOOD = "project: chest\nlead: lead.example:9092\n"


@pytest.fixture(name="path")
def path_(tmp_path):
    return tmp_path / "project.yaml"


def test_what_is_not_said_has_a_default(path):
    path.write_text(GOOD + "names: [lead2.example, 192.0.2.7]\n")
    project = load_project(path)
    assert project.certificate_names == ("lead.example", "lead2.example", "192.0.2.7")
    assert project.listen_address == ("0.0.0.0", 9092)
    assert 0 < project.certificate_days <= project.authority_days


def test_a_project_comes_back_as_it_was(path):
    project = Project("chest", "lead.example:443", ("10.0.0.1",), "127.0.0.1:8443", 9999, 30, 60)
    path.write_bytes(project.dumps())
    assert load_project(path) == project


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "project: is missing"),
        ("- 1\n", "expected a mapping"),
        ("project: [", "line 1: expected the node content"),
        (GOOD + "port: 1\n", "port: there is no such key"),
        (GOOD.replace("chest", "'Chest X'"), "project: 'Chest X' is not a valid name"),
        (GOOD.replace(":9092", ""), "not host:port"),
        (GOOD.replace("9092", "99999"), "not host:port"),
        (GOOD.replace("lead.example", "lead..example"), "has no valid host name"),
        (GOOD + "names: ['*.example']\n", "not a DNS name or IP"),
        (GOOD + "listen: nowhere\n", "listen: 'nowhere'"),
        (GOOD + "control_port: 0\n", "control_port"),
        (GOOD + "control_port: 9092\n", "differ from the port in listen"),
        (GOOD + "certificate_days: 0\n", "certificate_days"),
        (GOOD + "certificate_days: 4000\n", "certificate_days"),
        (GOOD + "certificate_days: 1.5\n", "is not a whole number"),
    ],
)
def test_faults_are_named(path, content, message):
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_project(path)
    assert message in str(caught.value)


def test_all_faults_are_named_at_once(path):
    path.write_text(GOOD.replace("chest", "A").replace(":9092", "") + "names: ['a b']\ncontrol_port: -1\n")
    with pytest.raises(ConfigError) as caught:
        load_project(path)
    assert caught.value.problem.count("\n") == 3


def test_a_missing_file_is_a_fault(path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_project(path)


@given(st.text(), st.text(), st.lists(st.text(), max_size=3), st.text(), st.integers(), st.integers())
def test_values_of_any_kind_are_judged(project, lead, names, listen, port, days):
    assert find_project_faults(Project(project, lead, tuple(names), listen, port, days))


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_project(path)
