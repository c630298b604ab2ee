"""The desk at which a study is examined on the hospital's data, approved, declined or withdrawn."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict

from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.errors import ConfigError
from fedhealth.protocol.study_answer import RefusalReason, StudyAnswer
from fedhealth.site.home import SiteHome
from fedhealth.site.person_name import check_person
from fedhealth.site.policy import load_policy
from fedhealth.site.study_approval import approve_study, decline_study, withdraw_study
from fedhealth.site.study_store import StudyStore
from fedhealth.site.study_verdict import StudyVerdict, evaluate_study
from fedhealth.utils.digest import digest_parts, encode_canonical
from fedhealth.utils.readable_text import is_readable

_LONGEST_PERSON, _LONGEST_NOTE = 80, 400


class StudyDesk:
    """Decide on studies, one step at a time.

    Args:
        home: the hospital's folder.

    """

    def __init__(self, home: SiteHome) -> None:
        self._home, self._lock, self._examining = home, threading.Lock(), threading.Lock()
        self._verdicts: dict[str, StudyVerdict] = {}

    def get_verdict(self, digest: str) -> StudyVerdict | None:
        """Return what the study's examination showed since this page was started."""
        return self._verdicts.get(digest)

    def list_steps(self, study: ResearchStudy) -> tuple[str, ...]:
        """Return what can be done with a study now; it is approved only after its examination was shown."""
        if study.closed:
            return ()
        decision = StudyStore(self._home).load_decision(study.digest)
        answer = decision.answer if decision else None
        if answer is StudyAnswer.approved:
            return ("withdraw",)
        again = ("withdraw",) if answer in (StudyAnswer.suspended, StudyAnswer.outdated) else ("decline",)
        return (("approve",) if study.digest in self._verdicts else ("examine",)) + again

    def take_step(self, step: str, study: ResearchStudy, form: Mapping[str, str]) -> None:
        """Do one step with the fields of its form.

        Raises:
            FedhealthError: the data cannot be used for it, its share does not fit, or a field is not possible.

        """
        if step == "examine":
            self._examine(study)
            return
        with self._lock:
            self._check_step(step, study)
            person = check_person(_read_text(form, "person", _LONGEST_PERSON))
            note = _read_text(form, "note", _LONGEST_NOTE)
            if step == "approve":
                verdict = self._verdicts[study.digest]
                if form.get("verdict") != digest_verdict(verdict):
                    raise ConfigError(f"{study.label} was examined again meanwhile.", "Open it and read the result.")
                del self._verdicts[study.digest]
                approve_study(study, verdict, self._home, load_policy(self._home), person, note)
            elif step == "decline":
                decline_study(study, self._home, _read_reason(form), note, person)
            else:
                withdraw_study(study.name, self._home, _read_reason(form), note, person)

    def _examine(self, study: ResearchStudy) -> None:
        """Read the data, which may take minutes; nobody who declines or withdraws waits for it."""
        if not self._examining.acquire(blocking=False):
            raise ConfigError("A study is being examined now.", "Open this one again when that has ended.")
        try:
            self._check_step("examine", study)
            verdict = evaluate_study(study, load_policy(self._home), self._home)
        finally:
            self._examining.release()
        with self._lock:
            self._verdicts[study.digest] = verdict

    def _check_step(self, step: str, study: ResearchStudy) -> None:
        if step not in self.list_steps(study):  # two people decide at once
            raise ConfigError(f"{study.label} was decided meanwhile.", "Open it again.")


def digest_verdict(verdict: StudyVerdict) -> str:
    """Return a digest of what an examination showed, by which an approval names it."""
    return digest_parts(b"fedhealth study verdict", encode_canonical(asdict(verdict))).hex()


def _read_text(form: Mapping[str, str], name: str, longest: int) -> str:
    """Return one line of printable text."""
    text = form.get(name, "").strip()
    if not text or len(text) > longest or not is_readable(text):
        raise ConfigError(f"The field {name!r} needs 1 to {longest} printable characters.", "Nothing was changed.")
    return text


def _read_reason(form: Mapping[str, str]) -> RefusalReason:
    try:
        return RefusalReason(form.get("reason", ""))
    except ValueError as fault:
        raise ConfigError("The reason is none of the list.", "Nothing was changed.") from fault
