"""What every table from FHIR needs: a server or a folder, its people, credentials, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedhealth.errors import ConfigError
from fedhealth.ingest.sources.access import check_url, parse_access
from fedhealth.ingest.sources.fhir_models import Patient
from fedhealth.ingest.sources.fhir_people import FhirPeople, collect_people
from fedhealth.ingest.sources.fhir_reader import FhirFolder, FhirServer, ReadCounts, format_search, parse_resources
from fedhealth.ingest.sources.smart import SmartClient
from fedhealth.utils.yaml_model import parse_settings

_ADVICE = "Correct the file; docs/ingest.md describes it."


@dataclass(frozen=True)
class FhirTable:
    """What each table needs.

    Args:
        url: base address of a server.
        folder: instead of a server, a folder of NDJSON files.
        patients: search parameters for people; only theirs is read.
        identifier: system of the identifier that is the images' Patient ID; empty = that of type MR, or the only one.
        max_refused: share of resources that cannot be used from which on the ingest stops.
        access: how the server is reached, as in `fedhealth.ingest.sources.access.ServerAccess`.
        smart: `fedhealth.ingest.sources.smart.SmartClient`: how the program is registered.
        page: how many resources are asked for at a time.

    """

    url: str = ""
    folder: str = ""
    patients: Mapping[str, str] = field(default_factory=dict)
    identifier: str = ""
    max_refused: float = 0.025
    access: Mapping[str, Any] = field(default_factory=dict)
    smart: Mapping[str, Any] = field(default_factory=dict)
    page: int = 500

    def __post_init__(self) -> None:
        """Check the settings."""
        if bool(self.url) == bool(self.folder):
            raise ConfigError("A FHIR table needs either a url or a folder.", _ADVICE)
        if self.url:
            object.__setattr__(self, "url", check_url(self.url))
        if self.page < 1:
            raise ConfigError("page must be positive.", "Remove it: the default is 500.")
        if self.smart:
            check_url(self._parse_smart().token_url)
        parse_access(self.access)

    @property
    def name(self) -> str:
        """The table's name in messages."""
        return f"FHIR {urlsplit(self.url).netloc or Path(self.folder).name}"

    def open_reader(self) -> FhirServer | FhirFolder:
        """Return what reads the resources; to be used in a `with` block."""
        if self.folder:
            return FhirFolder(self.folder)
        smart = self._parse_smart() if self.smart else None
        return FhirServer(self.url, parse_access(self.access), smart, self.page)

    def _parse_smart(self) -> SmartClient:
        return parse_settings(dict(self.smart), SmartClient, "smart", _ADVICE)

    def format_searches(self, *searches: tuple[str, Mapping[str, str]]) -> str:
        """Return searches, each a kind of resource with its parameters, for a person to check."""
        if self.folder:
            return f"every *.ndjson file below {self.folder}"
        return "\n".join(f"GET {format_search(self.url, kind, query, self.page)}" for kind, query in searches)

    def read_people(self, reader: FhirServer | FhirFolder, counts: ReadCounts) -> FhirPeople:
        """Read all people; count what cannot be used."""
        found = parse_resources(reader.iterate_resources("Patient", self.patients), Patient, counts)
        return collect_people(found, self.identifier, counts)
