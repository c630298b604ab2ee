"""What a site makes of a signed order: its own policy has the last word, and says which limit was met."""

import time
from contextlib import suppress

import pytest

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.errors import ConfigError
from fedhealth.protocol.job import compose_job_config
from fedhealth.site import decline_reasons
from fedhealth.site.job_approval import review_job
from fedhealth.site.policy import load_policy
from tests.fedhealth.site.trust import Consortium

SITES = "charite,klinikum,st-brigid"
WORDS = ("data=demo", "data.name=chest", f"data.sites=[{SITES}]", "privacy=patient", "secagg=on", "strategy.rounds=2")
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
    """Consider words under limits; the lead composes the same words with its own files."""

    consortium = Consortium(tmp_path)

    def send(*words, limits="{}", wrong_digest=False, conf=None):
        home = consortium.homes["charite"]
        home.policy.write_text(POLICY.format(root=tmp_path, limits=limits))
        if conf:
            home.policy.write_text(home.policy.read_text() + f"conf: {conf}\n")
        own = [f"data.root={tmp_path}"]
        told = "0" * 64
        if not wrong_digest:
            with suppress(ConfigError):
                told = compute_config_digest(compose_config([*words, *own], conf))
        now = int(time.time())
        order = SignedJob("chest", "run12345", tuple(words), told, "0" * 64, "0" * 64, now, now + 60, "0" * 32)
        return review_job(order, load_policy(home), consortium.membership(), home)

    return send


def test_a_fair_job_is_accepted_with_the_sites_own_values_last(ask, tmp_path):
    consent = ask(*WORDS)
    assert consent.reasons == ()
    config = compose_job_config(consent.jobs[0])
    assert config.data.root == str(tmp_path)
    assert config.data.columns.text == "note"
    assert config.privacy["dataset"] == "chest-2026"
    assert (config.privacy["max_epsilon"], config.privacy["lifetime_epsilon"]) == (8.0, 20.0)
    assert (config.privacy["min_noise_multiplier"], config.privacy["min_cohort"]) == (0.3, 20)
    assert config.training.threads == 2


@pytest.mark.parametrize(
    ("words", "limits", "reason"),
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
def test_what_the_policy_does_not_allow_is_declined_with_its_reason(ask, words, limits, reason):
    keys = {word.partition("=")[0] for word in words}
    kept = [word for word in WORDS if word.partition("=")[0] not in keys]
    consent = ask(*kept, *words, limits=limits)
    assert consent.jobs == ()
    assert reason in consent.reasons
    assert all(decline_reasons.redact_reason(each) == each for each in consent.reasons)


def test_another_digest_is_declined(ask):
    consent = ask(*WORDS, wrong_digest=True)
    assert (consent.jobs, consent.reasons) == ((), (decline_reasons.CONFIG_MISMATCH,))


def test_units_may_be_allowed(ask):
    words = [word for word in WORDS if not word.startswith("privacy")]
    assert ask(*words, "privacy=none", limits="{units: [none, patient]}").reasons == ()


def test_the_hospitals_own_configuration_files_can_be_chosen(ask, tmp_path):
    folder = tmp_path / "conf" / "data"
    folder.mkdir(parents=True)
    (folder / "ward.yaml").write_text("defaults: [demo, _self_]\nname: chest\n")
    words = ["data=ward" if word == "data=demo" else word for word in WORDS if word != "data.name=chest"]
    assert ask(*words).reasons == ("the override data is not accepted",)
    assert ask(*words, conf=folder.parent).reasons == ()
