"""When sites were heard last: written seldom, read by the lead's commands, and never in the way."""

import pytest

from fedhealth.flower.server.site_contacts import SiteContacts, load_contacts
from fedhealth.protocol.site_report import SiteReport

ONE, TWO = SiteReport("0.1.0", "ab" * 32, 7), SiteReport("0.2.0", "ab" * 32, 8)


@pytest.fixture(name="clock")
def clock_():
    return [1000.0]


@pytest.fixture(name="contacts")
def contacts_(tmp_path, clock):
    return SiteContacts(tmp_path / "contacts", lambda: clock[0])


def test_the_last_report_is_kept_by_node(tmp_path, contacts, clock):
    contacts.record(5, ONE.dumps())
    contacts.record(6, "<script>")
    clock[0] += 2
    contacts.record(5, TWO.dumps())
    found = load_contacts(tmp_path / "contacts")
    assert found[5].report == TWO
    assert found[5].time == 1002.0
    assert found[6].report is None


def test_a_site_that_asks_ten_times_a_second_is_written_seldom(tmp_path, contacts, clock):
    written = set()
    for step in range(600):
        contacts.record(5, (ONE if step % 2 else TWO).dumps() if step < 100 else ONE.dumps())
        clock[0] += 0.1
        written.add(load_contacts(tmp_path / "contacts")[5].time)
    assert len(written) <= 10 + 1 + 3  # a change once a second, and the same report three times a minute


def test_a_clock_that_was_set_back_hides_no_site(tmp_path, contacts, clock):
    contacts.record(5, ONE.dumps())
    clock[0] -= 500
    contacts.record(5, TWO.dumps())
    found = load_contacts(tmp_path / "contacts")
    assert (found[5].time, found[5].report) == (500.0, TWO)


def test_a_disk_that_is_full_stops_no_request(tmp_path, contacts, monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedhealth.flower.server.site_contacts.write_atomic", fail)
    contacts.record(5, ONE.dumps())
    assert "could not be written" in caplog.text
