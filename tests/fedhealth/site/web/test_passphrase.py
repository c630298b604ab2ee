"""A passphrase is checked with the cost that it was stored with, whatever this release or process would take."""

import json

import pytest

from fedhealth.errors import TrustError
from fedhealth.site.home import SiteHome
from fedhealth.site.web import passphrase
from fedhealth.site.web.passphrase import (
    PassphraseGate,
    PassphraseRefusedError,
    get_passphrase_path,
    set_passphrase,
)

WORDS = "four random words here"


def test_another_cost_of_a_later_release_checks_an_earlier_hash(tmp_path, monkeypatch):
    home = SiteHome(tmp_path)
    monkeypatch.setattr(passphrase, "_COST", 2**10)
    set_passphrase(home, WORDS)
    monkeypatch.setattr(passphrase, "_COST", 2**11)
    gate = PassphraseGate(home)
    gate.check_passphrase(WORDS)
    with pytest.raises(PassphraseRefusedError, match="wrong"):
        gate.check_passphrase(WORDS + "!")


@pytest.mark.parametrize("change", [{"cost": 3}, {"cost": "x"}, {"salt": 1}])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, change):
    home = SiteHome(tmp_path)
    monkeypatch.setattr(passphrase, "_COST", 2**10)
    set_passphrase(home, WORDS)
    path = get_passphrase_path(home)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(TrustError, match=next(iter(change))):
        PassphraseGate(home).check_passphrase(WORDS)
