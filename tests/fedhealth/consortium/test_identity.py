"""Keys are created once: two processes that set up the same folder end with one key."""

import pytest

from fedhealth.consortium import identity
from fedhealth.consortium.identity import load_roster, save_roster
from fedhealth.privacy.accounting.release import load_release_key
from fedhealth.site.home import SiteHome
from fedhealth.utils import atomic_io, json_model
from fedhealth.utils.private_files import make_signing_key


def make_home(folder):
    home = SiteHome(folder)
    home.create()
    return home.load_node_public_key(), home.load_identity_key().private_bytes_raw()


@pytest.mark.parametrize(
    "make_key",
    [
        identity.make_identity,
        lambda folder: make_signing_key(folder / "consortium.key"),
        load_release_key,
        make_home,
    ],
    ids=["identity", "signing key", "release key", "home"],
)
def test_a_second_process_keeps_the_key_of_the_first(tmp_path, monkeypatch, make_key):
    """The other process creates its key after this one has looked and before this one writes."""
    genuine, others = atomic_io._create_file, []

    def create_while_another_does(path, mode):
        if not others:
            others.append(None)
            others.append(make_key(tmp_path))
        return genuine(path, mode)

    monkeypatch.setattr(atomic_io, "_create_file", create_while_another_does)
    assert make_key(tmp_path) == others[1]
    assert make_key(tmp_path) == others[1]


def test_a_roster_that_is_read_again_leaves_nothing_in_memory(tmp_path):
    save_roster(tmp_path, {"north": bytes(range(32))})
    load_roster(tmp_path)
    before = json_model._build_adapter.cache_info().currsize
    assert len({load_roster(tmp_path).digest for _ in range(20)}) == 1
    assert json_model._build_adapter.cache_info().currsize == before


def test_a_roster_that_has_changed_is_read_again(tmp_path):
    save_roster(tmp_path, {"north": bytes(range(32))})
    load_roster(tmp_path)
    save_roster(tmp_path, {"north": bytes(range(1, 33))})
    assert load_roster(tmp_path).keys == {"north": bytes(range(1, 33))}
