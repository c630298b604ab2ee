"""Jobs are believed for their signature alone, and once."""

import json
from dataclasses import replace

import pytest

from fedhealth.consortium.signatures import sign_body
from fedhealth.consortium.signed_job import PURPOSE, SignedJob, verify_job
from fedhealth.errors import TrustError
from fedhealth.lead.sign_job import sign_job
from fedhealth.site.job_history import JobHistory
from fedhealth.utils.private_files import load_signing_key
from tests.fedhealth.site.trust import Consortium

BUNDLE, DIGEST = "12" * 32, "34" * 32


@pytest.fixture(name="consortium")
def consortium_(tmp_path):
    return Consortium(tmp_path)


@pytest.fixture(name="job")
def job_(consortium):
    return sign_job(consortium.lead, "0123456789ab", ["experiment=demo"], DIGEST, BUNDLE)


def test_a_genuine_job_is_believed(consortium, job: tuple[str, str]):
    signed = verify_job(*job, consortium.membership(), BUNDLE)
    assert (signed.overrides, signed.digest) == (("experiment=demo",), DIGEST)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("overrides", ["privacy=none"]),
        ("run", "ffffffffffff"),
        ("digest", "00" * 32),
        ("expires", 2**40),
        ("project", "x"),
    ],
)
def test_a_changed_job_is_not(consortium, job, key, value):
    content, signature = job
    changed = json.dumps({**json.loads(content), key: value}, sort_keys=True, separators=(",", ":"))
    with pytest.raises(TrustError, match="not signed"):
        verify_job(changed, signature, consortium.membership(), BUNDLE)


def test_a_job_of_somebody_else_is_not(consortium, job: tuple[str, str], tmp_path):
    other = Consortium(tmp_path / "other")
    with pytest.raises(TrustError, match="not signed"):
        verify_job(*job, other.membership(), BUNDLE)
    with pytest.raises(TrustError):
        verify_job(job[0], "", consortium.membership(), BUNDLE)


def test_a_signature_serves_one_purpose(consortium, job):
    elsewhere = sign_body(load_signing_key(consortium.lead.consortium_key), "membership", job[0].encode()).hex()
    with pytest.raises(TrustError, match="not signed"):
        verify_job(job[0], elsewhere, consortium.membership(), BUNDLE)


def test_bundle_members_and_time_must_be_the_sites(consortium, job: tuple[str, str]):
    membership = consortium.membership()
    with pytest.raises(TrustError, match="another bundle"):
        verify_job(*job, membership, "99" * 32)
    with pytest.raises(TrustError, match="another roster"):
        verify_job(*job, replace(membership, members=membership.members[:2]), BUNDLE)
    signed = SignedJob.parse(job[0])
    with pytest.raises(TrustError, match="expired"):
        verify_job(*job, membership, BUNDLE, now=signed.expires + 1)
    with pytest.raises(TrustError, match="in the future"):
        verify_job(*job, membership, BUNDLE, now=signed.issued - 301)


def test_a_job_that_ended_is_not_taken_up_again(consortium, job):
    now = [1000.0]
    home = consortium.homes["charite"]
    signeds, signed = JobHistory(home, lambda: now[0]), SignedJob.parse(job[0])
    signeds.start_or_resume(signed, hours=1)
    signeds.start_or_resume(signed, hours=1)  # a restart in between
    assert JobHistory(home).find_expired(-1) == [signed.run]
    with pytest.raises(TrustError, match="another job"):
        signeds.start_or_resume(replace(signed, overrides=("seed=1",)), hours=1)
    now[0] += 3601
    with pytest.raises(TrustError, match="the limit of this site"):
        signeds.start_or_resume(signed, hours=1)
    signeds.mark_ended(signed.run)
    assert JobHistory(home).find_expired(-1) == []
    with pytest.raises(TrustError, match="has ended"):
        signeds.start_or_resume(signed, hours=10)


@pytest.mark.parametrize("hours", [1, 72, 10_000])
def test_after_a_restore_an_ended_job_is_refused_once_its_time_is_over(consortium, job, hours):
    """However long the lead wrote that it is valid: until the year 142,715,360."""
    home, signed = consortium.homes["charite"], replace(SignedJob.parse(job[0]), expires=4_503_599_627_370_496)
    now = [float(signed.issued)]
    history = JobHistory(home, lambda: now[0])
    history.start_or_resume(signed, hours)
    history.mark_ended(signed.run)
    (home.state / "job_history.json").unlink()  # as in a copy from before the run
    now[0] += hours * 3600 + 1
    with pytest.raises(TrustError, match="the limit of this site"):
        history.start_or_resume(signed, hours)


@pytest.mark.parametrize("overrides", ["text", [1], ["a" * 2000], ["line\nbreak"], [["nested"]], ["x"] * 500])
def test_malformed_overrides_are_refused_even_when_signed(consortium, job, overrides):
    content = json.dumps({**json.loads(job[0]), "overrides": overrides}, sort_keys=True, separators=(",", ":"))
    proof = sign_body(load_signing_key(consortium.lead.consortium_key), PURPOSE, content.encode()).hex()
    with pytest.raises(TrustError, match="overrides"):
        verify_job(content, proof, consortium.membership(), BUNDLE)


def test_a_signed_job_that_lacks_a_field_is_refused_although_the_field_has_a_default(consortium, job):
    fields = json.loads(job[0])
    for name in fields:
        content = json.dumps({key: value for key, value in fields.items() if key != name})
        proof = sign_body(load_signing_key(consortium.lead.consortium_key), PURPOSE, content.encode()).hex()
        with pytest.raises(TrustError, match=f"{name}: is missing"):
            verify_job(content, proof, consortium.membership(), BUNDLE)
