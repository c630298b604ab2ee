"""Recommendations compose, validate and name a reason, for every kind of study."""

import itertools

import pytest

from fedhealth.config.compose import compose_config
from fedhealth.config.recommend import StudyFacts, recommend_overrides
from fedhealth.config.validate import validate_config
from fedhealth.errors import ConfigError

KINDS = [frozenset(some) for n in (1, 2, 3) for some in itertools.combinations(("image", "text", "tabular"), n)]


@pytest.mark.parametrize("epsilon", [None, 1.0, 8.0])
@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "-".join(sorted(kinds)))
@pytest.mark.parametrize("known", [{}, {"text_encoder": "minilm", "image_weights": "w.safetensors"}])
def test_every_study_gets_settings_that_are_valid_together(kinds, epsilon, known):
    found = recommend_overrides(StudyFacts(150, 4, kinds, epsilon, **known))
    overrides = [override for each in found for override in each.overrides]
    assert all(each.reason for each in found)
    config = compose_config(["data.root=x", *overrides])
    validate_config(config)
    assert {name for name in ("image", "text", "tabular") if config.model[name] is not None} == kinds
    assert (config.privacy.get("epsilon") == epsilon) or epsilon is None
    if epsilon:
        assert config.model.fusion.zero


@pytest.mark.parametrize(
    ("kinds", "sites", "known", "sends"),
    [
        ({"text", "tabular"}, 4, {}, "gradient"),
        ({"image", "tabular"}, 4, {"image_weights": "w.safetensors"}, "gradient"),
        ({"image", "tabular"}, 4, {}, "update"),  # a network from scratch makes a round expensive
        ({"tabular"}, 1, {}, "update"),  # nobody differs
    ],
)
def test_hospitals_with_frozen_features_take_one_step_in_a_round(kinds, sites, known, sends):
    found = recommend_overrides(StudyFacts(150, sites, frozenset(kinds), **known))
    config = compose_config(["data.root=x", *(override for each in found for override in each.overrides)])
    assert config.training.sends.value == sends
    assert (config.training.local_steps == 1) == (sends == "gradient")


def test_few_patients_and_few_hospitals_get_advice():
    few = recommend_overrides(StudyFacts(50, 2, frozenset({"tabular"}), 1.0))
    assert any("privacy.noise=shared" in each.reason for each in few)
    assert ("secagg=off",) in [each.overrides for each in few]


@pytest.mark.parametrize(
    "facts",
    [
        StudyFacts(0, 4, frozenset({"text"})),
        StudyFacts(9, 0, frozenset({"text"})),
        StudyFacts(9, 4, frozenset()),
        StudyFacts(9, 4, frozenset({"sound"})),
        StudyFacts(9, 4, frozenset({"text"}), -1.0),
    ],
)
def test_numbers_of_no_study_are_refused(facts):
    with pytest.raises(ConfigError):
        recommend_overrides(facts)
