"""Images from an archive that speaks DICOMweb: QIDO-RS chooses, WADO-RS fetches (DICOM PS3.18, 10.4 and 10.6).

Workers fetch one instance at a time, decode it and keep only the stored image, so no copy of the archive is made. An
instance is taken as it was sent: dicomweb-client would parse it and write it again. Studies are listed by a few
connections at a time, because an archive takes milliseconds for each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from threading import get_ident
from typing import Any, BinaryIO
from urllib.parse import quote

from fedhealth.data.identifiers import make_identifier
from fedhealth.data.image.dicom import MAX_BYTES
from fedhealth.data.image.errors import ImageError
from fedhealth.errors import ConfigError, DataError, FedhealthError
from fedhealth.ingest.source import SourceFile
from fedhealth.ingest.sources.access import (
    CONNECT_SECONDS,
    ServerAccess,
    check_url,
    open_session,
    parse_access,
)
from fedhealth.ingest.sources.http_request import explain_failure, explain_status, read_content
from fedhealth.ingest.sources.multipart import extract_only_part
from fedhealth.utils.extras import build_missing_error

_STUDY, _SERIES, _INSTANCE, _PATIENT, _MODALITY = "0020000D", "0020000E", "00080018", "00100020", "00080060"
_STAMP = (
    _INSTANCE,
    "00080016",
    "00200013",
    "00280010",
    "00280011",
    "00280008",
)  # of an instance
_COUNT = "00201208"  # Number of Study Related Instances
_UNLISTED = "unlisted"
_LISTERS = 4  # connections that list studies
_AT_ONCE = 64  # studies that are listed ahead
_AS_STORED = {
    "Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*',
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True)
class DicomWeb:
    """The instances of an archive's studies.

    Args:
        url: address of the DICOMweb service.
        query: which studies, by attributes of QIDO-RS: {StudyDate: 20230101-20231231}.
        modalities: of the series that are read; empty = all.
        access: how the server is reached, as in `fedhealth.ingest.sources.access.ServerAccess`.
        page: how many studies or instances are listed at a time.

    """

    url: str
    query: Mapping[str, str] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    access: Mapping[str, Any] = field(default_factory=dict)
    page: int = 500

    def __post_init__(self) -> None:
        """Check the settings, and make them plain, so that they can be sent to workers."""
        object.__setattr__(self, "url", check_url(self.url))
        object.__setattr__(self, "query", {str(name): str(value) for name, value in self.query.items()})
        object.__setattr__(self, "modalities", tuple(map(str, self.modalities)))
        object.__setattr__(self, "access", dict(self.access))
        parse_access(self.access)
        if self.page < 1:
            raise ConfigError("source.page must be positive.", "Remove it: the default is 500.")

    def contains_folder(self, folder: Path) -> bool:
        """Return False: an archive contains no folder of this machine."""
        return False

    def items(self) -> Iterator[SourceFile]:
        """Yield every instance, sorted by study; a study that cannot be listed is one rejected file."""
        studies = sorted(self._list_studies().items())
        listers = 1 if parse_access(self.access).pause else _LISTERS  # a pace is for the whole process
        pool = ThreadPoolExecutor(listers)
        try:
            for start in range(0, len(studies), _AT_ONCE):
                for found in pool.map(self._list_study, studies[start : start + _AT_ONCE]):
                    yield from found
        finally:
            pool.shutdown(cancel_futures=True)

    def open(self, item: SourceFile) -> BinaryIO:
        """Fetch an instance as it is stored."""
        study, _, rest = item.name.partition("/")
        series, _, instance = rest.partition("/")
        if item.stamp == _UNLISTED:
            raise ImageError("the archive does not list the study", "The next ingest tries it again.")
        try:
            return BytesIO(self._fetch_instance(study, series, instance))
        except FedhealthError as fault:  # a password that went away is no fault of the file: it is tried again
            raise ImageError(f"the archive does not send it: {fault.problem}", fault.advice) from None

    def _fetch_instance(self, *uids: str) -> bytes:
        """Return the bytes of an instance.

        Raises:
            DataError: the archive does not answer, refuses, or answers with something else.

        """
        places = zip(("studies", "series", "instances"), uids, strict=True)
        path = "/".join(f"{place}/{quote(uid, safe='')}" for place, uid in places)
        session, access = _open_connection(json.dumps(self.access, sort_keys=True), get_ident())
        kind, content = read_content(session, f"{self.url}/{path}", access, MAX_BYTES, headers=_AS_STORED)
        try:
            return extract_only_part(content, kind, "application/dicom")
        except ValueError:
            raise DataError(f"{self.url}: the answer is not one instance.", "Check the server's address.") from None

    def _list_studies(self) -> dict[str, tuple[str, int]]:
        """Return by each study's UID the code of its patient, and how many instances it has; 0 if unknown."""
        found: dict[str, tuple[str, int]] = {}
        fields = ["PatientID", "NumberOfStudyRelatedInstances"]
        for modality in self.modalities or ("",):
            query = {**self.query, **({"ModalitiesInStudy": modality} if modality else {})}
            for each in self._list_pages("search_for_studies", query, _STUDY, fields=fields):
                patient, count = make_identifier("patient", _get_value(each, _PATIENT)).code, _get_value(each, _COUNT)
                found[_get_value(each, _STUDY)] = patient, int(count) if count.isdecimal() else 0
        return found

    def _list_study(self, known: tuple[str, tuple[str, int]]) -> list[SourceFile]:
        study, (patient, count) = known
        try:
            return sorted(self._list_instances(study, patient, count))
        except DataError:
            return [SourceFile(study, _UNLISTED, patient)]

    def _list_instances(self, study: str, patient: str, count: int) -> Iterator[SourceFile]:
        fields = ["Modality", "Rows", "Columns", "NumberOfFrames"]
        for each in self._list_pages("search_for_instances", {}, _INSTANCE, study, fields=fields, count=count):
            if not self.modalities or _get_value(each, _MODALITY) in self.modalities:
                shown = json.dumps([_get_value(each, tag) for tag in _STAMP])
                name = f"{study}/{_get_value(each, _SERIES)}/{_get_value(each, _INSTANCE)}"
                yield SourceFile(name, hashlib.sha256(shown.encode()).hexdigest()[:32], patient)

    def _list_pages(
        self, search: str, query: Mapping[str, str], tag: str, *place: str, fields: list[str], count: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Yield all results of a search; servers may send fewer at a time than they are asked for.

        With a known `count`, no further page is asked for when there are as many and the last page was not full.
        Some ignore the offset, or lose results behind it (Orthanc 1.10 with ModalitiesInStudy). So where full pages
        end, the search is repeated from its beginning with larger pages, until one is not full.
        """
        seen: set[str] = set()
        offset, limit, is_full = 0, self.page, False
        while True:
            results = _request(
                self, search, *place, search_filters=dict(query), fields=fields, limit=limit, offset=offset
            )
            new = [each for each in results if _get_value(each, tag) not in seen]
            seen |= {_get_value(each, tag) for each in new}
            yield from new
            if 0 < count <= len(seen) and len(results) < limit:
                return
            if new and limit == self.page:
                offset, is_full = offset + len(results), len(results) == limit
            elif (limit == self.page and is_full) or (new and len(results) >= limit):
                offset, limit = 0, 2 * max(len(seen), limit)
            else:
                return


@lru_cache(maxsize=2 * _LISTERS)
def _open_connection(access: str, thread: int) -> tuple[Any, ServerAccess]:
    """Return a session for a thread of this process, and how it reaches the server; TLS connections are kept open.

    Raises:
        ConfigError: the extra is not installed, or a certificate is missing.

    """
    how = parse_access(json.loads(access))
    return open_session(how), how


@lru_cache(maxsize=2 * _LISTERS)
def _connect(url: str, access: str, thread: int) -> Any:
    """Return a client for a thread of this process.

    Raises:
        ConfigError: the extra is not installed, or a certificate is missing.

    """
    session, how = _open_connection(access, thread)
    try:
        from dicomweb_client.web import DICOMwebClient
    except ImportError:
        raise build_missing_error("dicomweb_client") from None
    client = DICOMwebClient(url, session, permissive_uid=True, timeout=(CONNECT_SECONDS, how.seconds))
    client.set_http_retry_params(retry=False)  # the session retries, also after a broken connection
    return client


def _request(source: DicomWeb, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of the client.

    Raises:
        DataError: the archive does not answer, refuses, or answers with something else.

    """
    client = _connect(source.url, json.dumps(source.access, sort_keys=True), get_ident())
    from requests import HTTPError, JSONDecodeError, RequestException

    try:
        return getattr(client, method)(*arguments, **options)
    except HTTPError as fault:
        raise explain_status(source.url, fault.response.status_code if fault.response is not None else 0) from None
    except (MemoryError, FedhealthError):
        raise
    except Exception as fault:  # on a damaged answer the client raises almost any exception and quotes the content
        if isinstance(fault, RequestException) and not isinstance(fault, JSONDecodeError):
            raise explain_failure(source.url, fault) from None
        raise DataError(
            f"{source.url}: the answer is not DICOMweb ({type(fault).__name__}).", "Check the server's address."
        ) from None


def _get_value(found: Mapping[str, Any], tag: str) -> str:
    """Return an attribute of a result; empty if it has none."""
    element = found.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if values else ""
