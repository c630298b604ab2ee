"""Adding a cohort to site.yaml: one entry more, every other line as it was."""

import pytest

from fedhealth.errors import ConfigError
from fedhealth.site.add_cohort import add_cohort
from fedhealth.site.home import SiteHome
from fedhealth.site.init import init_site
from fedhealth.site.policy import load_policy


@pytest.fixture(name="home")
def home_(tmp_path):
    home = SiteHome(tmp_path / "home")
    init_site(home, "charite", "127.0.0.1:9")
    return home


def test_entries_are_added_below_data(home, tmp_path):
    before = home.policy.read_text()
    assert add_cohort(home, "demo", tmp_path / "cohort's é")
    assert home.policy.read_text().startswith(before.rstrip())
    assert add_cohort(home, "chest", tmp_path / "other")
    found = load_policy(home).data
    assert {name: (each.root, each.ingested, each.dataset) for name, each in found.items()} == {
        "demo": (tmp_path / "cohort's é", True, "demo"),
        "chest": (tmp_path / "other", True, "chest"),
    }
    assert not add_cohort(home, "demo", tmp_path / "cohort's é")


def test_other_data_of_the_name_are_kept(home, tmp_path):
    add_cohort(home, "demo", tmp_path / "one")
    before = home.policy.read_bytes()
    with pytest.raises(ConfigError, match="elsewhere"):
        add_cohort(home, "demo", tmp_path / "two")
    assert home.policy.read_bytes() == before


def test_a_file_in_another_form_is_left_alone(home, tmp_path):
    home.policy.write_text(home.policy.read_text() + "data: {}\n")
    before = home.policy.read_bytes()
    with pytest.raises(ConfigError, match="by hand"):
        add_cohort(home, "demo", tmp_path / "one")
    assert home.policy.read_bytes() == before
