"""The overrides that a site accepts in a job: plain values and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.config.override_allowlist import find_override_errors

PLAIN = [
    "experiment=derm",
    "strategy.rounds=12",
    "training.optimizer.lr=0.005",
    "model.image.train=none",
    "model/text=words",
    "privacy=patient",
    "privacy.epsilon=3",
    "data.sites=[a,b]",
    "seed=7",
    "~data.tabular.age",
]
HOSTILE = [
    "model._target_=os.system",
    "model.text._target_=clients.app.np.save",
    "model.text={_target_:os.system}",
    "seed=${oc.env:HOME}",
    "seed=${now:%s}",
    "name=$(id)",
    "+new.key=1",
    "++privacy.max_epsilon=100",
    "~privacy",
    "hydra.searchpath=[file:///tmp]",
    "hydra.run.dir=/tmp",
    "seed=1,2",
    "seed=choice(1,2)",
    "seed=range(1,5)",
    "model/text=../../etc/passwd",
    "model/text=unknown",
    "secagg.lead._target_=x",
    "secagg.site.min_sites=1",
    "data.root=/etc",
    "data.cache=/tmp",
    "privacy.max_epsilon=1000",
    "privacy.lifetime_epsilon=1000",
    "privacy.min_noise_multiplier=0",
    "privacy.min_cohort=1",
    "privacy.dataset=other",
    "runtime=local",
    "data.sites=[[a],b]",
    "seed",
    "=1",
    "seed=",
    "seed='1'",
    "seed=1\n",
    "model/text@privacy=words",
]


def test_plain_words_pass():
    assert find_override_errors(PLAIN) == []


@pytest.mark.parametrize("override", HOSTILE)
def test_everything_else_is_refused(override):
    assert find_override_errors([override])


def test_all_faults_are_named_and_a_key_is_set_once():
    assert len(find_override_errors(HOSTILE)) >= len(HOSTILE)
    assert any("twice" in fault for fault in find_override_errors(["seed=1", "seed=2"]))


MARKS = ("${", "@", "(", "{", "'", '"', "\\", ";", ",", "*", "/")


@given(st.text(min_size=1, max_size=60), st.sampled_from(MARKS))
def test_nothing_with_a_meaning_of_its_own_gets_through(text, mark):
    assert find_override_errors([f"seed={text}{mark}"])
    assert find_override_errors([f"{mark}{text}=1"])
