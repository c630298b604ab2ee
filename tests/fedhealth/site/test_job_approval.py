"""A site's decision on a signed job: its own policy decides, and each reason names the limit."""

import time
from contextlib import suppress

import pytest

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.instantiate import instantiate
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.errors import ConfigError
from fedhealth.protocol.job import compose_job_config
from fedhealth.site import decline_reasons
from fedhealth.site.job_approval import review_job
from fedhealth.site.policy import load_policy
from tests.fedhealth.site.trust import Consortium

SITES = "charite,klinikum,st-brigid"
OVERRIDES = (
    "data=demo",
    "data.name=chest",
    f"data.sites=[{SITES}]",
    "privacy=patient",
    "secagg=on",
    "strategy.rounds=2",
)
POLICY = """\
name: charite
lead: lead.example:9092
data:
  chest: {{dataset: chest-2026, root: {root}, columns: {{text: note}}}}
limits: {limits}
resources: {{threads: 2}}
"""


@pytest.fixture(name="ask")
def ask_(tmp_path):
    """Review a job with these overrides under limits; the lead composes them with its own files."""

    consortium = Consortium(tmp_path)

    def review(*overrides, limits="{}", wrong_digest=False, conf=None):
        home = consortium.homes["charite"]
        home.policy.write_text(POLICY.format(root=tmp_path, limits=limits))
        if conf:
            home.policy.write_text(home.policy.read_text() + f"conf: {conf}\n")
        own = [f"data.root={tmp_path}"]
        digest = "0" * 64
        if not wrong_digest:
            with suppress(ConfigError):
                digest = compute_config_digest(compose_config([*overrides, *own], conf))
        now = int(time.time())
        job = SignedJob("chest", "run12345", tuple(overrides), digest, "0" * 64, "0" * 64, now, now + 60, "0" * 32)
        return review_job(job, load_policy(home), consortium.membership(), home)

    return review


def test_a_fair_job_is_accepted_with_the_sites_own_values_last(ask, tmp_path):
    decision = ask(*OVERRIDES)
    assert decision.reasons == ()
    config = compose_job_config(decision.jobs[0])
    assert config.data.root == str(tmp_path)
    assert config.data.columns.text == "note"
    assert config.privacy["dataset"] == "chest-2026"
    assert (config.privacy["max_epsilon"], config.privacy["lifetime_epsilon"]) == (8.0, 20.0)
    assert (config.privacy["min_noise_multiplier"], config.privacy["min_cohort"]) == (0.3, 20)
    assert (config.privacy["lifetime_delta"], config.privacy["max_failures"]) == (1e-6, 20)
    assert (config.training.threads, config.training.memory_gb) == (2, 16.0)


@pytest.mark.parametrize(
    ("overrides", "limits", "reason"),
    [
        (
            ("privacy=none",),
            "{}",
            decline_reasons.format_reason(decline_reasons.PRIVACY_UNIT_NOT_ALLOWED, "none", "patient"),
        ),
        (
            ("privacy=client",),
            "{}",
            decline_reasons.format_reason(decline_reasons.PRIVACY_UNIT_NOT_ALLOWED, "client", "patient"),
        ),
        (
            ("privacy.delta=0.01",),
            "{}",
            decline_reasons.format_reason(decline_reasons.DELTA_ABOVE_LIMIT, "0.01", "0.0001"),
        ),
        (
            (),  # the default delta
            "{max_delta: 0.0000001}",
            decline_reasons.format_reason(decline_reasons.DELTA_ABOVE_LIMIT, "1e-06", "1e-07"),
        ),
        (("privacy.max_failures=1000",), "{}", "the override privacy.max_failures is not accepted"),
        (("privacy.lifetime_delta=0.1",), "{}", "the override privacy.lifetime_delta is not accepted"),
        (("secagg=off",), "{}", decline_reasons.SECURE_AGGREGATION_REQUIRED),
        (("secagg.min_sites=1",), "{}", decline_reasons.format_reason(decline_reasons.TOO_FEW_SITES_IN_SUM, 1, 3)),
        (("secagg.weights=exact",), "{}", decline_reasons.EXACT_WEIGHTS_NOT_ALLOWED),
        (("data.name=other",), "{}", decline_reasons.format_reason(decline_reasons.NO_SUCH_DATA, "other")),
        (("data.sites=[charite,klinikum,stranger]",), "{}", decline_reasons.UNAPPROVED_SITES),
        (
            ("data.sites=[klinikum,st-brigid]",),
            "{}",
            decline_reasons.format_reason(decline_reasons.SITE_NOT_IN_RUN, "charite"),
        ),
        (("personalization=ditto",), "{personalizations: [none]}", "personalization=ditto is not allowed here"),
        (("model/text=words",), "{models: [small]}", "model/text=words is not allowed here"),
        (("model._target_=os.system",), "{}", "the override model._target_ is not accepted"),
        (("model.layers=3",), "{}", decline_reasons.OVERRIDES_DO_NOT_COMPOSE),
        (("privacy.max_epsilon=1000",), "{}", "the override privacy.max_epsilon is not accepted"),
    ],
)
def test_what_the_policy_does_not_allow_is_declined_with_its_reason(ask, overrides, limits, reason):
    keys = {override.partition("=")[0] for override in overrides}
    kept = [override for override in OVERRIDES if override.partition("=")[0] not in keys]
    decision = ask(*kept, *overrides, limits=limits)
    assert decision.jobs == ()
    assert reason in decision.reasons
    assert all(decline_reasons.redact_reason(each) == each for each in decision.reasons)


def test_the_sites_own_failure_limit_and_delta_reach_the_trainer(ask):
    limits = "{max_failures: null, delta: 0.00001}"
    trainer = instantiate(compose_job_config(ask(*OVERRIDES, limits=limits).jobs[0]).privacy)
    assert (trainer.budget.max_failures, trainer.budget.lifetime_delta) == (None, 1e-5)


def test_another_digest_is_declined(ask):
    decision = ask(*OVERRIDES, wrong_digest=True)
    assert (decision.jobs, decision.reasons) == ((), (decline_reasons.CONFIG_MISMATCH,))


def test_units_may_be_allowed(ask):
    overrides = [override for override in OVERRIDES if not override.startswith("privacy")]
    assert ask(*overrides, "privacy=none", limits="{units: [none, patient]}").reasons == ()


def test_the_hospitals_own_configuration_files_can_be_chosen(ask, tmp_path):
    folder = tmp_path / "conf" / "data"
    folder.mkdir(parents=True)
    (folder / "ward.yaml").write_text("defaults: [demo, _self_]\nname: chest\n")
    overrides = [
        "data=ward" if override == "data=demo" else override for override in OVERRIDES if override != "data.name=chest"
    ]
    assert ask(*overrides).reasons == ("the override data is not accepted",)
    assert ask(*overrides, conf=folder.parent).reasons == ()
