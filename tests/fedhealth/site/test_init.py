"""The first step: a strict policy that explains itself, and is never overwritten."""

from dataclasses import fields

import pytest
from omegaconf import OmegaConf

from fedhealth.errors import ConfigError
from fedhealth.site.home import SiteHome
from fedhealth.site.init import init_site
from fedhealth.site.policy import Policy, Resources, SiteLimits, load_policy

LEAD = "lead.example:9092"
HIDDEN = {"records", "largest_change"}  # limits that no hospital needs to change


@pytest.fixture(name="home")
def home_(tmp_path):
    return SiteHome(tmp_path / "site")


def test_the_policy_is_the_strict_default(home):
    init_site(home, "charite", LEAD)
    assert load_policy(home) == Policy("charite", LEAD)


def test_it_names_every_limit(home):
    init_site(home, "charite", LEAD)
    content = OmegaConf.to_container(OmegaConf.load(home.policy))
    assert set(content["limits"]) == {field.name for field in fields(SiteLimits)} - HIDDEN
    assert set(content["resources"]) == {field.name for field in fields(Resources)}


def test_its_example_of_data_is_right(home):
    init_site(home, "charite", LEAD)
    lines = home.policy.read_text().splitlines()
    start = lines.index("# data:")
    lines[start : start + 5] = [line.removeprefix("# ") for line in lines[start : start + 5]]
    home.policy.write_text("\n".join(lines))
    assert load_policy(home).data["chest"].dataset == "chest-2026"


@pytest.mark.parametrize("name", ["123", "null", "1e3", "true", "0x1f", "2026-01-01"])
def test_a_name_that_yaml_would_read_otherwise_stays_a_name(home, name):
    init_site(home, name, LEAD)
    assert load_policy(home).name == name


def test_what_was_edited_stays(home):
    first = init_site(home, "charite", LEAD)
    home.policy.write_text(f"name: charite\nlead: {LEAD}\nlimits: {{epsilon: 2}}\n")
    assert init_site(home, "charite", LEAD) == first
    assert load_policy(home).limits.epsilon == 2


def test_another_site_in_the_same_folder_is_refused(home):
    init_site(home, "charite", LEAD)
    before = home.join_request.read_bytes()
    for name, lead in (("klinikum", LEAD), ("charite", "other.example:1")):
        with pytest.raises(ConfigError, match="already names the site 'charite'"):
            init_site(home, name, lead)
    assert home.join_request.read_bytes() == before
