"""What a run promised at a site is stored once; a run that books again is the newest."""

import os
from dataclasses import replace

from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger_folder import get_target_path
from fedhealth.privacy.accounting.privacy_target import PrivacyTarget, list_newest_targets, load_target, save_target

TARGET = PrivacyTarget("one", "patient", 8.0, 1e-6, 1.5, 3, "wards", (PrivacyEvent(1.5, 0.5, 1),))


def test_a_target_that_is_stored_is_not_written_again_but_is_the_newest(tmp_path):
    (tmp_path / "privacy").mkdir()
    save_target(tmp_path, TARGET)
    path = get_target_path(tmp_path, "one")
    os.utime(path, (1, 1))
    before = path.stat()
    save_target(tmp_path, replace(TARGET, run="two"))
    assert [each.run for each in list_newest_targets(tmp_path, ())] == ["two", "one"]
    save_target(tmp_path, TARGET)
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime > before.st_mtime
    assert load_target(tmp_path, "one") == TARGET


def test_another_target_replaces_it(tmp_path):
    (tmp_path / "privacy").mkdir()
    save_target(tmp_path, TARGET)
    save_target(tmp_path, replace(TARGET, noise_multiplier=2.0))
    assert load_target(tmp_path, "one").noise_multiplier == 2.0
