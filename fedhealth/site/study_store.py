"""The studies that a hospital knows, what its people decided on each, and which runs have touched its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fedhealth.consortium.research_study import ResearchStudy, SignedStudy
from fedhealth.errors import ConfigError, TrustError
from fedhealth.protocol.study_answer import MAX_REPORTED_STUDIES, RefusalReason, ReportedAnswer, StudyAnswer
from fedhealth.site.home import SiteHome
from fedhealth.site.stored_studies import STUDY_SUFFIX, RefusedStudy, StoredStudies, read_stored_studies
from fedhealth.utils.atomic_io import write_atomic, write_json
from fedhealth.utils.file_lock import lock_file
from fedhealth.utils.json_model import read_model
from fedhealth.utils.private_files import make_private_folder

GIVEN = (StudyAnswer.approved, StudyAnswer.suspended, StudyAnswer.outdated)
"""Approvals, with their share reserved; the last two must be given again."""
_DECISION_SUFFIX = ".decision.json"
_ADVICE = "Restore it from a backup, or remove it and approve the study again."
_LOCK_SECONDS = 60.0


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
        study: the study's name.
        version: of the study.
        ledger: the data set in whose ledger the study's share is reserved; empty if none is.
        price: what the dearest run that the study allows costs here, as plain values; empty without a share.

    """

    answer: StudyAnswer
    person: str
    time: float
    reason: RefusalReason | None = None
    note: str = ""
    data: str = ""
    configuration: str = ""
    findings: tuple[str, ...] = ()
    study: str = ""
    version: int = 0
    ledger: str = ""
    price: Mapping[str, Any] = field(default_factory=dict)


class StudyStore:
    """The folder of a hospital's studies.

    Args:
        home: the hospital's folder.

    """

    def __init__(self, home: SiteHome) -> None:
        self._folder = home.studies

    @contextmanager
    def lock_decisions(self) -> Iterator[None]:
        """Let nobody else receive a study or decide meanwhile: what a decision reserves belongs to it.

        Raises:
            ConfigError: another process decides at this moment.

        """
        make_private_folder(self._folder)
        busy = ConfigError("Another process decides on a study at this moment.", "Try again.")
        with lock_file(self._folder / ".decisions.lock", _LOCK_SECONDS, busy):
            yield

    def add_study(self, signed: SignedStudy) -> bool:
        """Store a verified study; return whether it is new."""
        path = self._folder / f"{signed.study.digest}{STUDY_SUFFIX}"
        if path.is_file():
            return False
        make_private_folder(self._folder)
        write_atomic(path, signed.dumps())
        return True

    def read_studies(self) -> StoredStudies:
        """Return all studies, and those that this release refuses.

        Raises:
            TrustError: the decision on a refused one is damaged.

        """
        found = read_stored_studies(self._folder)
        return replace(found, refused=tuple(map(self._name_refused, found.refused)))

    def _name_refused(self, refused: RefusedStudy) -> RefusedStudy:
        """Return a refused study with the name that the decision on it holds, where its file does not tell."""
        decision = None if refused.name else self.load_decision(refused.digest)
        return replace(refused, name=decision.study, version=decision.version) if decision else refused

    def load_studies(self) -> dict[str, ResearchStudy]:
        """Return all studies that this release accepts by digest, by name and version."""
        return dict(self.read_studies().studies)

    def find_study(self, word: str) -> ResearchStudy:
        """Return the newest study of a name, or the one whose digest begins so.

        Raises:
            ConfigError: there is none, or a digest's beginning is that of several.
            TrustError: this release refuses it.

        """
        stored = self.read_studies()
        named = [each for each in stored.studies.values() if each.name == word]
        found = named or [each for key, each in stored.studies.items() if key.startswith(word)]
        if len(found) > 1 and not named:
            raise ConfigError(f"More than one study begins with {word!r}.", "Give more digits of its digest.")
        if not found or not word:
            refused = [each for each in stored.refused if word and (each.name == word or each.digest.startswith(word))]
            if refused:
                raise TrustError(refused[-1].sentence, refused[-1].advice)
            raise ConfigError(f"No study {word!r} is known here.", "`fedhealth site study show` lists them.")
        return found[-1]

    def find_previous_version(self, study: ResearchStudy) -> ResearchStudy | None:
        """Return the version before this one: the last that a person approved, if there is any."""
        earlier = [each for each in self.load_studies().values() if each.name == study.name]
        earlier = [each for each in earlier if each.version < study.version]
        approved = [each for each in earlier if self.was_approved(each.digest)]
        candidates = approved or earlier
        return candidates[-1] if candidates else None

    def was_approved(self, digest: str) -> bool:
        """Return whether this version was ever approved here; a later version then never gives way to an earlier one.

        Raises:
            TrustError: the decision's file is damaged.

        """
        decision = self.load_decision(digest)
        return decision is not None and decision.answer not in (StudyAnswer.undecided, StudyAnswer.declined)

    def load_decision(self, digest: str) -> StudyDecision | None:
        """Return the decision on a study; None if nobody has decided.

        Raises:
            TrustError: the file is damaged.

        """
        return read_model(self._folder / f"{digest}{_DECISION_SUFFIX}", StudyDecision, _ADVICE)

    def load_decisions(self) -> dict[str, StudyDecision]:
        """Return all decisions by digest, also those on studies that this release refuses.

        Raises:
            TrustError: a file is damaged.

        """
        names = [path.name.removesuffix(_DECISION_SUFFIX) for path in self._folder.glob(f"*{_DECISION_SUFFIX}")]
        return {digest: found for digest in sorted(names) if (found := self.load_decision(digest))}

    def save_decision(self, digest: str, decision: StudyDecision) -> None:
        """Store a decision; it replaces an earlier one."""
        make_private_folder(self._folder)
        write_json(self._folder / f"{digest}{_DECISION_SUFFIX}", asdict(decision))

    def suspend_approvals(self) -> list[str]:
        """Turn every approval into one that must be given again; return the studies' digests."""
        return [digest for digest in self.load_decisions() if self.end_approval(digest, StudyAnswer.suspended)]

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
        return read_model(self._folder / f"{name}.runs.json", tuple[str, ...], _ADVICE) or ()

    def record_run(self, name: str, run: str, most: int) -> bool:
        """Record, durably, that a run is about to touch the data; return False if `most` others have done so.

        Two processes never record two runs in one place.
        """
        make_private_folder(self._folder)
        with lock_file(self._folder / ".runs.lock"):
            begun = self.list_runs(name)
            if run in begun:
                return True
            if len(begun) >= most:
                return False
            write_json(self._folder / f"{name}.runs.json", [*begun, run])
            return True
