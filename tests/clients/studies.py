"""Studies of a consortium on disk: made, signed, received by a hospital and approved by its people."""

from dataclasses import replace

from fedhealth.consortium.research_study import SignedStudy, sign_study
from fedhealth.lead.study_draft import StudyDraft, build_study
from fedhealth.site.policy import load_policy
from fedhealth.site.receive_study import receive_study
from fedhealth.site.study_approval import approve_study
from fedhealth.site.study_verdict import evaluate_study
from fedhealth.utils.private_files import load_signing_key

DRAFT = StudyDraft(
    name="crp",
    title="CRP and the course of a pneumonia",
    purpose="a model that names patients at risk",
    contact="study@lead.example",
    ethics="EK 12/2026",
    first_day="2026-01-01",
    last_day="2099-12-31",
    overrides=(),
)


def make_study(words, version=1, closed=False, config_dir=None, **fields):
    """Return a study of these overrides."""
    study = build_study(replace(DRAFT, overrides=tuple(words), **fields), "chest", version, config_dir)
    return replace(study, closed=closed)


def send_study(consortium, home, study):
    """Sign a study and let a hospital receive it."""
    signed = sign_study(study, load_signing_key(consortium.lead.consortium_key))
    return receive_study(signed.dumps(), consortium.membership(), home, load_policy(home))


def approve(home, path):
    """Evaluate and approve a study that a hospital has received."""
    study, policy = SignedStudy.loads(path.read_bytes()).study, load_policy(home)
    return approve_study(study, evaluate_study(study, policy, home), home, policy, "Dr. Noor")
