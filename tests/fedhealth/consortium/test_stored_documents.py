"""Documents that an earlier release wrote and signed: read, and written again with the same bytes."""

import json
from pathlib import Path

from fedhealth.consortium.join_request import read_request
from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.research_study import SignedStudy, verify_study
from fedhealth.consortium.signatures import is_valid_signature
from fedhealth.consortium.signed_job import PURPOSE, SignedJob
from fedhealth.utils.digest import encode_canonical

STORED = Path(__file__).with_name("stored")
MEMBERSHIP = SignedMembership.loads((STORED / "membership.json").read_bytes())


def test_a_membership():
    assert MEMBERSHIP.dumps() == (STORED / "membership.json").read_bytes()
    assert MEMBERSHIP.membership.fingerprint == "ecdd-2222-b0bd-041f-aa03-cb7a-4cce-454a-fef1-d467"


def test_a_join_request():
    content = (STORED / "request.json").read_bytes()
    assert encode_canonical({**json.loads(content), **read_request(content).fields()}) == content


def test_a_job():
    stored = json.loads((STORED / "job.json").read_bytes())
    job = SignedJob.parse(stored["job"])
    assert job.dumps() == stored["job"]
    assert job.work_digest == stored["work"]
    signature = bytes.fromhex(stored["signature"])
    assert is_valid_signature(MEMBERSHIP.membership.consortium, signature, PURPOSE, job.dumps().encode())


def test_a_study():
    content = (STORED / "study.json").read_bytes()
    assert SignedStudy.loads(content).dumps() == content
    found = verify_study(content, MEMBERSHIP.membership).study
    assert found.digest == "58bfde40bece9bd1d7ea2885b834018d4b6138e7ef3aa7d6c18f64877b009e8d"
