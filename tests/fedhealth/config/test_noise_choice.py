"""Who adds the noise where the configuration leaves it open: all together in rehearsals, each alone elsewhere."""

from pathlib import Path

import pytest

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.warnings import list_warnings
from fedhealth.errors import ConfigError
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir

SHARED = "privacy.noise=shared"
ONE_STEP = ("privacy=patient", "method=fedsgd", "privacy.sample_rate=0.5")
STATS = ("purpose=describe", "privacy=patient")


def compose(*words):
    return RunSpec.compose(["data.root=x", *words], RunDir(Path("nowhere")))


@pytest.mark.parametrize("words", [ONE_STEP, STATS, ("experiment=demo_shared",)])
def test_a_rehearsal_that_may_share_the_noise_does_and_says_on_whom_the_promise_rests(words):
    spec = compose(*words)
    spec.check()
    assert spec.plain["privacy"]["noise"] == spec.plain["secagg"]["lead"]["noise"] == "shared"
    told = dict(list_warnings(spec.plain, spec.capabilities))
    assert "no more than 1 of the 4 hospitals work with the lead" in told["The hospitals share the noise"]
    again = compose_config([*spec.job_overrides])  # what a virtual site composes
    assert compute_config_digest(again) == spec.digest
    assert spec.job_overrides.count(SHARED) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("privacy=patient",),  # several local steps
        (*ONE_STEP, "secagg=off"),
        (*ONE_STEP, "privacy.sample_rate=null"),
        (*ONE_STEP, "strategy.max_update_norm=1"),
        (*ONE_STEP, "secagg.weights=uniform"),
        (*ONE_STEP, "data.sites=[northfield,lakeside]"),
        (*ONE_STEP, "privacy.noise=local"),
        (*STATS, "secagg=off"),
        ("privacy=none",),
        ("privacy=client",),
    ],
)
def test_otherwise_each_hospital_adds_all_noise_itself(words):
    changed = {word.partition("=")[0] for word in words[3:]}
    spec = compose(*(word for word in words[:3] if word.partition("=")[0] not in changed), *words[3:])
    assert spec.plain["privacy"].get("noise") in (None, "local")
    assert SHARED not in spec.overrides
    assert "The hospitals share the noise" not in dict(list_warnings(spec.plain, spec.capabilities))


def test_between_hospitals_the_lead_asks_for_it(tmp_path):
    spec = compose(*ONE_STEP, "runtime=deployment")
    assert spec.plain["privacy"]["noise"] is None
    told = dict(list_warnings(spec.plain, spec.capabilities))
    assert "limits.local_epsilon" in told["Every hospital adds all noise itself"]
    asked = compose(*ONE_STEP, "runtime=deployment", SHARED)
    assert "Every hospital adds all noise itself" not in dict(list_warnings(asked.plain, asked.capabilities))


def test_a_hospital_as_the_unit_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="its noise would rest on the hospitals that it is protected from"):
        compose("privacy=client", SHARED).check()
