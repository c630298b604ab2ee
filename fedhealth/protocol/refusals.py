"""Why a site refuses a job before it touches any data: a closed list, so that the lead learns the cause and the fix.

Every cause follows from the job, the kit, the release and the clock alone. What happens after data were touched is
reported as a kind of error without a cause (`fedhealth.protocol.messages.build_error`).
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import Error

from fedhealth.errors import TrustError
from fedhealth.protocol.messages import build_error, is_error_kind

_FIRST_CODE = 1100  # of a refusal; the codes below are kinds of errors
_SITE_LOG = "The cause is in run/site.log of the hospital's folder; the lead does not learn it."
POLICY_FIX = "Change the run, or ask the hospital's staff: their site.yaml says what is accepted."


@dataclass(frozen=True)
class Refusal:
    """One cause.

    Attributes:
        name: as it is sent.
        problem: what is wrong at the site, in words for the lead.
        advice: how to fix it.

    """

    name: str
    problem: str
    advice: str


OTHER_RELEASE = Refusal(
    "other-release",
    "its release of fedhealth does not fit the lead's",
    "Install releases that fit on both sides; `fedhealth lead sites` shows what each hospital has.",
)
OTHER_KIT = Refusal(
    "other-kit",
    "it has another kit than the lead's latest",
    "Send the hospital its latest kit; its staff installs it with `fedhealth site install`.",
)
NOT_SIGNED = Refusal(
    "not-signed",
    "the job is malformed or not signed with the consortium's key that the hospital knows",
    "Send the hospital its latest kit. If it has it, ask who else can send jobs through the lead's server.",
)
OTHER_CLOCK = Refusal(
    "other-clock", "the job was signed in its future", "Synchronise the clocks of both machines with NTP."
)
JOB_EXPIRED = Refusal(
    "job-expired", "the job has expired", "Start the run again, or check the clocks of both machines."
)
JOB_ENDED = Refusal(
    "job-ended", "the job has ended there, or its id was used before", "Start a new run; an ended one never goes on."
)
TOO_MANY_HOURS = Refusal(
    "too-many-hours",
    "the run has taken longer than the hospital allows",
    "Ask the hospital's staff to raise limits.hours in site.yaml, or start a shorter run.",
)
REFUSALS = (OTHER_RELEASE, OTHER_KIT, NOT_SIGNED, OTHER_CLOCK, JOB_EXPIRED, JOB_ENDED, TOO_MANY_HOURS)
_BY_CODE = {_FIRST_CODE + number: refusal for number, refusal in enumerate(REFUSALS)}


class JobRefusedError(TrustError):
    """A job that the site refuses before it touches data.

    Args:
        problem: as in `FedhealthError`; it stays at the site.
        advice: likewise, for the site's staff.
        refusal: what the lead is told.

    """

    def __init__(self, problem: str, advice: str, refusal: Refusal) -> None:
        super().__init__(problem, advice)
        self.refusal = refusal


def build_refusal(fault: Exception) -> Error:
    """Return what the lead is told of a fault of the daemon: a listed refusal, or only the kind of the error."""
    if isinstance(fault, JobRefusedError):
        code = next(code for code, refusal in _BY_CODE.items() if refusal is fault.refusal)
        return Error(code, fault.refusal.name)
    return build_error(fault)


def explain_error(code: int, kind: str) -> tuple[str, str]:
    """Return problem and fix of a site's error reply, in our words; of the site's only its kind is used.

    Args:
        code: of the error.
        kind: as `build_refusal` writes it.

    """
    if refusal := _BY_CODE.get(code):
        return refusal.problem, refusal.advice
    shown = kind if is_error_kind(code, kind) else "an error of an unknown kind"
    return f"it reported {shown}", _SITE_LOG


def describe_error(code: int, kind: str) -> str:
    """Return a site's error reply as one text that begins with the kind of the error."""
    if refusal := _BY_CODE.get(code):
        return f"{TrustError.__name__} ({refusal.problem}). {refusal.advice}"
    return f"{kind if is_error_kind(code, kind) else 'unknown'} (see the site's own log)"


def is_lasting_refusal(code: int) -> bool:
    """Return whether the refusal stays the same when the request is repeated."""
    return code in _BY_CODE
