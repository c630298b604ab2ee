"""A value of an own file that the experiment overrides is told with both values, unless the command names it."""

import pytest

from fedhealth.config.compose import compose_with_choices
from fedhealth.config.own_files import list_overridden_values

FILE = """
defaults:
  - small_bert
  - _self_
hidden: 12
layers: 0
buckets: ${seed}
"""


@pytest.fixture
def warn(tmp_path):
    (tmp_path / "model" / "text").mkdir(parents=True)
    (tmp_path / "model" / "text" / "mine.yaml").write_text(FILE)

    def call(*more):
        overrides = ["experiment=demo", "data.root=/data", "model/text=mine", *more]
        return list_overridden_values(*compose_with_choices(overrides, tmp_path), overrides, tmp_path)

    return call


def test_an_overridden_value_is_told_with_both_values(warn, tmp_path):
    [(title, text)] = warn()
    assert title == "model.text.hidden is 8, not 12"
    assert text.startswith(f"experiment=demo is composed after {tmp_path / 'model' / 'text' / 'mine.yaml'}")
    assert text.endswith("add 'model.text.hidden=12'.")


@pytest.mark.parametrize("override", ["model.text.hidden=12", "model.text.hidden=30"])
def test_what_the_command_says_is_no_surprise(warn, override):
    assert warn(override) == []


def test_without_own_files_there_is_nothing_to_tell():
    overrides = ["experiment=demo", "data.root=/data"]
    assert list_overridden_values(*compose_with_choices(overrides), overrides, None) == []


def test_a_file_for_the_whole_configuration_is_compared_at_the_root(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "mine.yaml").write_text("# @package _global_\ntraining:\n  batch_size: 3\n")
    overrides = ["experiment=demo", "data.root=/data", "training=mine"]
    [(title, _)] = list_overridden_values(*compose_with_choices(overrides, tmp_path), overrides, tmp_path)
    assert title == "training.batch_size is 256, not 3"
