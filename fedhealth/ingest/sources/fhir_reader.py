"""Read FHIR R4 resources: by search with paging from a server, or from the NDJSON files of a Bulk Data export.

What cannot be used is counted by its reason; no content of a resource is in a message.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from pydantic import ValidationError

from fedhealth.errors import DataError
from fedhealth.ingest.sources.access import ServerAccess, open_session
from fedhealth.ingest.sources.fhir_models import MODELS, Bundle, Resource
from fedhealth.ingest.sources.http_request import describe_server, request_json, send_request
from fedhealth.ingest.sources.smart import SmartClient, SmartTokens
from fedhealth.utils.user_path import expand_user

if TYPE_CHECKING:
    from requests import Session

ResourceT = TypeVar("ResourceT", bound=Resource)

_IDS_AT_ONCE = 50  # in one search by id
_MAX_BINARY = 32 << 20  # bytes of a document
_SUFFIXES = ("*.ndjson", "*.ndjson.gz")


@dataclass
class ReadCounts:
    """What was read.

    Attributes:
        read: number of resources.
        refused: why some were not used, with counts.

    """

    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def check_share(self, name: str, limit: float) -> None:
        """Stop if too many resources could not be used.

        Raises:
            DataError: with counts and reasons.

        """
        lost = self.refused.total()
        if lost > limit * max(1, self.read):
            reasons = "\n".join(f"  {count:6} {why}" for why, count in self.refused.most_common())
            raise DataError(
                f"{name}: {lost} of {self.read} resources cannot be used:\n{reasons}",
                f"Correct the query or the data, or raise max_refused (now {limit:g}) to continue without them.",
            )

    def list_notes(self) -> list[str]:
        """Return a note for each reason."""
        return [f"{count} resource(s) are not used: {why}" for why, count in self.refused.most_common()]


class FhirServer:
    """A server's resources.

    Args:
        url: its base address.
        access: how it is reached.
        smart: how the program is registered; None for other credentials.
        page: how many results are asked for at a time.

    """

    def __init__(self, url: str, access: ServerAccess, smart: SmartClient | None, page: int) -> None:
        self._url, self._access, self._page = url, access, page
        self._make_header = SmartTokens(smart, access).make_header if smart else None
        self._session: Session | None = None

    def __enter__(self) -> FhirServer:
        self._session = open_session(self._access, self._make_header)
        return self

    def __exit__(self, *fault: object) -> None:
        if self._session:
            self._session.close()

    def iterate_resources(self, kind: str, query: Mapping[str, str]) -> Iterator[Any]:
        """Yield the JSON of all resources of a kind that match a search."""
        url, seen = format_search(self._url, kind, query, self._page), set[str]()
        while url:
            if url in seen:
                raise DataError(f"{describe_server(url)}: its pages form a circle.", "Tell the server's administrator.")
            seen.add(url)
            content = request_json(self._get_session(), url, self._access, headers={"Accept": "application/fhir+json"})
            try:
                page = Bundle.model_validate(content)
            except ValidationError:
                raise DataError(f"{describe_server(url)}: the answer is not FHIR.", "Check the address.") from None
            yield from (each.resource for each in page.entry if each.search.mode == "match")
            url = self._find_next(url, page)

    def iterate_by_id(self, kind: str, keys: Sequence[str]) -> Iterator[Any]:
        """Yield the JSON of resources with given ids."""
        for start in range(0, len(keys), _IDS_AT_ONCE):
            yield from self.iterate_resources(kind, {"_id": ",".join(keys[start : start + _IDS_AT_ONCE])})

    def read_binary(self, url: str) -> bytes | None:
        """Return the content of a document; None if it is not on this server, or too large."""
        place = urljoin(f"{self._url}/", url)
        if not place.startswith(f"{self._url}/"):
            return None
        try:
            answer = send_request(self._get_session(), "GET", place, self._access, headers={"Accept": "*/*"})
        except DataError:
            return None
        return answer.content if len(answer.content) <= _MAX_BINARY else None

    def _find_next(self, url: str, page: Bundle) -> str:
        """Return the address of the next page; the credentials must not follow it to another server."""
        found = next((each.url for each in page.link if each.relation == "next"), "")
        following = urljoin(url, found) if found else ""
        if following and urlsplit(following)[:2] != urlsplit(self._url)[:2]:
            raise DataError(
                f"{describe_server(self._url)}: its next page is on another server ({describe_server(following)}).",
                "Use the address that the server itself uses.",
            )
        return following

    def _get_session(self) -> Session:
        if self._session is None:
            raise RuntimeError("the server is used outside its context")
        return self._session


class FhirFolder:
    """The resources in the NDJSON files (one resource a line) of a Bulk Data export; the query is not applied.

    Args:
        folder: of the files, whatever their names are.

    """

    def __init__(self, folder: str) -> None:
        self._folder = expand_user(folder)

    def __enter__(self) -> FhirFolder:
        if not self._folder.is_dir():
            raise DataError(f"{self._folder}: the folder does not exist.", "Correct source.folder.")
        return self

    def __exit__(self, *fault: object) -> None:
        return

    def iterate_resources(self, kind: str, _query: Mapping[str, str]) -> Iterator[Any]:
        """Yield the JSON of all resources of a kind; None for a line that is not JSON."""
        paths = sorted(path for suffix in _SUFFIXES for path in self._folder.rglob(suffix))
        if not paths:
            raise DataError(f"{self._folder}: there is no file *.ndjson.", "Correct source.folder.")
        for path in paths:
            try:
                with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                    yield from self._parse_lines(file, kind)
            except (OSError, EOFError) as fault:
                raise DataError(f"{path}: cannot be read ({type(fault).__name__}).", "Export it again.") from None

    def iterate_by_id(self, kind: str, keys: Sequence[str]) -> Iterator[Any]:
        """Yield the JSON of resources with given ids."""
        wanted = set(keys)
        yield from (each for each in self.iterate_resources(kind, {}) if each and each.get("id") in wanted)

    def read_binary(self, url: str) -> bytes | None:
        """Return nothing: an export has no documents by address."""
        return None

    @staticmethod
    def _parse_lines(lines: Any, kind: str) -> Iterator[Any]:
        for line in lines:
            if not line.strip():
                continue
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                yield None
                continue
            if isinstance(content, dict) and content.get("resourceType") == kind:
                yield content


def parse_resources(contents: Iterator[Any], kind: type[ResourceT], counts: ReadCounts) -> Iterator[ResourceT]:
    """Yield typed resources, each id once (pages may overlap while the data change); count what is invalid."""
    seen = set[str]()
    for content in contents:
        counts.read += 1
        try:
            resource = kind.model_validate(content)
        except ValidationError as fault:
            modified = any("modifier extension" in each["msg"] for each in fault.errors(include_input=False))
            counts.refused["a modifier extension" if modified else "not valid FHIR R4"] += 1
            continue
        if resource.id in seen:
            counts.read -= 1
            continue
        if resource.id:
            seen.add(resource.id)
        yield resource


def format_search(url: str, kind: str, query: Mapping[str, str], page: int) -> str:
    """Return the address of a search."""
    if kind not in MODELS:
        raise ValueError(kind)
    return f"{url}/{kind}?{urlencode({**query, '_count': str(page)}, safe=':/|,')}"
