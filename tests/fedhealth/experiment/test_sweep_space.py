import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from fedhealth.errors import ConfigError
from fedhealth.experiment.sweep_space import parse_space


def test_nested_keys_become_dotted_ones():
    space = parse_space(
        OmegaConf.create(
            {
                "training": {
                    "optimizer": {"lr": {"low": 1e-4, "high": 0.1, "log": True}},
                    "local_steps": {"low": 1, "high": 9},
                },
                "personalization": ["none", "fedbn"],
            }
        )
    )
    assert set(space) == {"training.optimizer.lr", "training.local_steps", "personalization"}
    lr, steps = space["training.optimizer.lr"], space["training.local_steps"]
    assert lr == FloatDistribution(1e-4, 0.1, log=True)
    assert steps == IntDistribution(1, 9)
    assert space["personalization"] == CategoricalDistribution(("none", "fedbn"))


@pytest.mark.parametrize("entry", ["fedbn", ["one"], 3, {"low": 1}, {"low": 2, "high": 1}, {"low": "a", "high": "b"}])
def test_what_is_no_choice_is_refused_by_its_key(entry):
    with pytest.raises(ConfigError, match=r"sweep\.space\.model\.dim"):
        parse_space({"model": {"dim": entry}})
