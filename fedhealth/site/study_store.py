"""The studies that a hospital knows, what its people decided on each, and which runs have touched its data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from fedhealth.consortium.research_study import ResearchStudy, SignedStudy
from fedhealth.errors import ConfigError, TrustError
from fedhealth.protocol.study_answer import MAX_REPORTED_STUDIES, RefusalReason, ReportedAnswer, StudyAnswer
from fedhealth.site.home import SiteHome
from fedhealth.utils.atomic_io import write_atomic, write_json
from fedhealth.utils.private_files import make_private_folder

_ADVICE = "Restore it from a backup, or remove it and approve the study again."


@dataclass(frozen=True)
class StudyDecision:
    """A decision on a study, stored with what it was based on.

    Attributes:
        answer: of the hospital.
        person: who decided, as this machine knows them; `policy` for `limits.minor_amendments`.
        time: seconds since 1970.
        reason: of one who declined or withdrew; the lead reads it.
        note: in the person's words, for this hospital only.
        data: digest of the data that the contract was evaluated on; empty unless approved.
        configuration: digest of the resolved configuration here; empty unless approved.
        findings: what the evaluation showed.

    """

    answer: StudyAnswer
    person: str
    time: float
    reason: RefusalReason | None = None
    note: str = ""
    data: str = ""
    configuration: str = ""
    findings: tuple[str, ...] = ()


class StudyStore:
    """The folder of a hospital's studies.

    Args:
        home: the hospital's folder.

    """

    def __init__(self, home: SiteHome) -> None:
        self._folder = home.studies

    def add_study(self, signed: SignedStudy) -> bool:
        """Store a verified study; return whether it is new."""
        path = self._folder / f"{signed.study.digest}.study.json"
        if path.is_file():
            return False
        make_private_folder(self._folder)
        write_atomic(path, signed.dumps())
        return True

    def load_studies(self) -> dict[str, ResearchStudy]:
        """Return all studies by digest, by name and version.

        Raises:
            TrustError: a file is damaged.

        """
        files = sorted(self._folder.glob("*.study.json"))
        found = [SignedStudy.loads(path.read_bytes()).study for path in files]
        return {each.digest: each for each in sorted(found, key=lambda study: (study.name, study.version))}

    def find_study(self, word: str) -> ResearchStudy:
        """Return the newest study of a name, or the one whose digest begins so.

        Raises:
            ConfigError: there is none, or a digest's beginning is that of several.

        """
        studies = self.load_studies()
        named = [each for each in studies.values() if each.name == word]
        found = named or [each for key, each in studies.items() if key.startswith(word)]
        if len(found) > 1 and not named:
            raise ConfigError(f"More than one study begins with {word!r}.", "Give more digits of its digest.")
        if not found or not word:
            raise ConfigError(f"No study {word!r} is known here.", "`fedhealth site study show` lists them.")
        return found[-1]

    def find_previous_version(self, study: ResearchStudy) -> ResearchStudy | None:
        """Return the version before this one: the last that a person approved, if there is any."""
        earlier = [each for each in self.load_studies().values() if each.name == study.name]
        earlier = [each for each in earlier if each.version < study.version]
        approved = [each for each in earlier if self.was_approved(each)]
        candidates = approved or earlier
        return candidates[-1] if candidates else None

    def was_approved(self, study: ResearchStudy) -> bool:
        """Return whether this version was ever approved here; a later version then never gives way to an earlier one.

        Raises:
            TrustError: the decision's file is damaged.

        """
        decision = self.load_decision(study.digest)
        return decision is not None and decision.answer not in (StudyAnswer.undecided, StudyAnswer.declined)

    def load_decision(self, digest: str) -> StudyDecision | None:
        """Return the decision on a study; None if nobody has decided.

        Raises:
            TrustError: the file is damaged.

        """
        path = self._folder / f"{digest}.decision.json"
        if not path.is_file():
            return None
        try:
            fields = json.loads(path.read_bytes())
            answer, findings = StudyAnswer(fields.pop("answer")), tuple(map(str, fields.pop("findings")))
            reason = RefusalReason(word) if (word := fields.pop("reason")) else None
            return StudyDecision(answer=answer, findings=findings, reason=reason, **fields)
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise TrustError(f"{path} is damaged.", _ADVICE) from fault

    def save_decision(self, digest: str, decision: StudyDecision) -> None:
        """Store a decision; it replaces an earlier one."""
        make_private_folder(self._folder)
        write_json(self._folder / f"{digest}.decision.json", asdict(decision))

    def suspend_approvals(self) -> list[str]:
        """Turn every approval into one that must be given again; return the studies' digests."""
        return [digest for digest in self.load_studies() if self.end_approval(digest, StudyAnswer.suspended)]

    def end_approval(self, digest: str, answer: StudyAnswer) -> bool:
        """Turn an approval into one that must be given again; return whether there was one."""
        decision = self.load_decision(digest)
        if decision is None or decision.answer is not StudyAnswer.approved:
            return False
        self.save_decision(digest, replace(decision, answer=answer))
        return True

    def list_answers(self) -> tuple[ReportedAnswer, ...]:
        """Return what the lead is told about each study, of the last ones by their first day."""
        studies = sorted(
            self.load_studies().items(), key=lambda item: (item[1].first_day, item[1].name, item[1].version)
        )
        return tuple(self._report_answer(digest) for digest, study in studies if not study.closed)[
            -MAX_REPORTED_STUDIES:
        ]

    def _report_answer(self, digest: str) -> ReportedAnswer:
        decision = self.load_decision(digest)
        if decision is None:
            return ReportedAnswer.build(digest, StudyAnswer.undecided)
        return ReportedAnswer.build(digest, decision.answer, decision.reason)

    def list_runs(self, name: str) -> tuple[str, ...]:
        """Return the runs of a study, in any version, that have touched this hospital's data.

        Raises:
            TrustError: the list is damaged.

        """
        path = self._folder / f"{name}.runs.json"
        try:
            listed = json.loads(path.read_bytes()) if path.is_file() else []
        except ValueError as fault:
            raise TrustError(f"{path} is damaged.", _ADVICE) from fault
        return tuple(map(str, listed))

    def record_run(self, name: str, run: str) -> None:
        """Record, durably, that a run is about to touch the data."""
        begun = self.list_runs(name)
        if run not in begun:
            make_private_folder(self._folder)
            write_json(self._folder / f"{name}.runs.json", [*begun, run])
