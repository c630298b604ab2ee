"""What a hospital answers to a study, and how its report tells the lead: words from closed lists, no free text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_REPORTED_STUDIES = 20
_DIGEST_CHARS = 16  # of a study's digest in a report: enough to tell one consortium's studies apart


class StudyAnswer(StrEnum):
    """What a hospital's people answered; the last two are approvals that must be given again."""

    undecided = "undecided"
    approved = "approved"
    declined = "declined"
    withdrawn = "withdrawn"
    suspended = "suspended"
    outdated = "outdated"


class RefusalReason(StrEnum):
    """Why a hospital's people declined a study or withdrew an approval; the only part of it that the lead reads."""

    purpose = "purpose"
    permit = "permit"
    data = "data"
    privacy = "privacy"
    effort = "effort"
    other = "other"


ANSWER_TEXTS = {
    StudyAnswer.undecided: "has received it and not decided",
    StudyAnswer.approved: "approved",
    StudyAnswer.declined: "declined",
    StudyAnswer.withdrawn: "has withdrawn its approval",
    StudyAnswer.suspended: "was restored from a backup and must approve again",
    StudyAnswer.outdated: "its data have changed since it approved: it must approve again",
}
REASON_TEXTS = {
    RefusalReason.purpose: "it does not agree with the purpose",
    RefusalReason.permit: "a permit is missing or has ended",
    RefusalReason.data: "its data do not fit the description",
    RefusalReason.privacy: "the privacy budget is too large",
    RefusalReason.effort: "it has no time or staff for it",
    RefusalReason.other: "ask its staff for the reason",
}
REPORT_FORM = rf"[0-9a-f]{{{_DIGEST_CHARS}}}:({'|'.join(StudyAnswer)})(:({'|'.join(RefusalReason)}))?"
"""The form of one reported answer, a regular expression."""


@dataclass(frozen=True)
class ReportedAnswer:
    """A hospital's answer to a study, as its report holds it.

    Attributes:
        study: the first characters of the study's digest.
        answer: of the hospital.
        reason: of one that declined or withdrew; None for another answer.

    """

    study: str
    answer: StudyAnswer
    reason: RefusalReason | None = None

    @staticmethod
    def build(digest: str, answer: StudyAnswer, reason: RefusalReason | None = None) -> ReportedAnswer:
        """Return the answer to the study of this digest."""
        return ReportedAnswer(digest[:_DIGEST_CHARS], answer, reason)

    def dumps(self) -> str:
        """Return it as a report holds it."""
        return ":".join(part for part in (self.study, self.answer, self.reason) if part)

    @staticmethod
    def parse(text: str) -> ReportedAnswer:
        """Parse a text that has `REPORT_FORM`."""
        study, answer, reason = f"{text}:".split(":")[:3]
        return ReportedAnswer(study, StudyAnswer(answer), RefusalReason(reason) if reason else None)

    def is_about(self, digest: str) -> bool:
        """Return whether it answers the study of this digest."""
        return digest.startswith(self.study)

    def describe_answer(self) -> str:
        """Return it in words."""
        return ANSWER_TEXTS[self.answer] + (f": {REASON_TEXTS[self.reason]}" if self.reason else "")
