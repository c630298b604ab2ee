"""Data that are replaced during a run stop a site's next task; findings go to the site's own log only."""

import logging

import pytest
from flwr.app import RecordDict

from clients.cohort_check import COHORT_FILE
from clients.institution import Institution
from clients.message import ParsedMessage
from clients.private_section import PrivateTaskError
from fedhealth.errors import DataError
from fedhealth.protocol.messages import HANDSHAKE, Directive
from tests.clients.test_public_data import institution


@pytest.fixture(name="hospital")
def hospital_(site_writer, tmp_path):
    return lambda seed: site_writer(tmp_path / "data", "north", patients=30, seed=seed)


@pytest.fixture(name="overrides")
def overrides_(tiny_overrides, tmp_path):
    return [*tiny_overrides(tmp_path / "data"), "data.sites=[north]", "training=sgd", "training.threads=1"]


def join(site: Institution):
    return site.join(ParsedMessage(HANDSHAKE, Directive("run", site.setup.digest, 0, 1, 0, ("north",)), RecordDict()))


@pytest.mark.parametrize(("further", "raised"), [((), DataError), (("privacy=patient",), PrivateTaskError)])
def test_replaced_data_stop_the_next_process(hospital, overrides, tmp_path, further, raised):
    hospital(1)
    join(institution([*overrides, *further], tmp_path / "run"))
    join(institution([*overrides, *further], tmp_path / "run"))  # another process, the same data
    hospital(2)
    with pytest.raises(raised) as found:
        join(institution([*overrides, *further], tmp_path / "run"))
    told = found.value.__cause__ or found.value
    assert "changed since this run was started" in str(told)
    join(institution([*overrides, *further], tmp_path / "other"))  # a new run begins with the new data


def test_findings_are_in_the_sites_log(hospital, overrides, tmp_path, caplog):
    hospital(1)
    images = sorted((tmp_path / "data" / "north" / "images").glob("*.png"))
    for each in images[1:]:  # the same picture for everybody
        each.write_bytes(images[0].read_bytes())
    with caplog.at_level(logging.INFO, "fedhealth.site"):
        site = institution(overrides, tmp_path / "run")
        expected = [f"data: {each.text}" for each in site.setup.cohort.findings]
        assert expected
        assert [each.getMessage() for each in caplog.records] == expected
    assert (tmp_path / "run" / COHORT_FILE).is_file()
