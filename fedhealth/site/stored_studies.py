"""Read the files of a hospital's studies: one that this release refuses is set aside by name, the others go on.

What is set aside still counts: a version that replaced or closed a study has done so, and an approval keeps its share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhealth.consortium.research_study import ResearchStudy, SignedStudy
from fedhealth.errors import TrustError
from fedhealth.utils.plain_files import read_plain_file

STUDY_SUFFIX = ".study.json"
_ADVICE = (
    "Ask the lead for a new version, or go back to the release that received it. "
    "Until then it is refused and its share of the budget stays reserved; `fedhealth site study withdraw` ends that."
)


@dataclass(frozen=True)
class RefusedStudy:
    """A stored study that this release refuses.

    Attributes:
        digest: by its file's name.
        file: its path.
        problem: why it is refused.
        name: of the study; empty if it cannot be read.
        version: of the study; 0 if it cannot be read.
        closed: whether the lead has closed the study with this version.

    """

    digest: str
    file: Path
    problem: str
    name: str = ""
    version: int = 0
    closed: bool = False

    @property
    def label(self) -> str:
        """Name and version, for people."""
        return f"{self.name} version {self.version}" if self.name else f"the study in {self.file.name}"

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        return f"{self.label} is set aside: {self.file} is refused by this release. {self.problem}"

    @property
    def advice(self) -> str:
        """What to do."""
        return _ADVICE


@dataclass(frozen=True)
class StoredStudies:
    """All stored studies.

    Attributes:
        studies: by digest, in the order of name and version.
        refused: those that this release refuses.

    """

    studies: Mapping[str, ResearchStudy]
    refused: tuple[RefusedStudy, ...]

    def list_versions(self, name: str) -> list[ResearchStudy | RefusedStudy]:
        """Return all versions of a study in their order, those set aside too."""
        known: list[ResearchStudy | RefusedStudy] = [*self.studies.values(), *self.refused]
        return sorted((each for each in known if each.name == name), key=lambda each: each.version)

    def is_closed(self, name: str) -> bool:
        """Return whether the lead has closed a study with any version."""
        return any(each.closed for each in self.list_versions(name))

    def find_refused(self, digest: str) -> RefusedStudy | None:
        """Return the study of this digest if it is set aside."""
        return next((each for each in self.refused if each.digest == digest), None)


def read_stored_studies(folder: Path) -> StoredStudies:
    """Read all studies of a folder."""
    studies, refused = [], []
    for path in sorted(folder.glob(f"*{STUDY_SUFFIX}")):
        content = b""
        try:
            content = read_plain_file(path)
            studies.append(SignedStudy.loads(content).study)
        except OSError as fault:
            refused.append(_set_aside(path, content, f"It cannot be read ({fault.strerror})."))
        except TrustError as fault:
            refused.append(_set_aside(path, content, fault.problem))
    ordered = sorted(studies, key=lambda study: (study.name, study.version))
    return StoredStudies({each.digest: each for each in ordered}, tuple(refused))


def _set_aside(path: Path, content: bytes, problem: str) -> RefusedStudy:
    """Return a refused study with what its file still tells."""
    digest = path.name.removesuffix(STUDY_SUFFIX)
    try:
        told = json.loads(content)["study"]
        return RefusedStudy(digest, path, problem, str(told["name"]), int(told["version"]), bool(told.get("closed")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return RefusedStudy(digest, path, problem)
