"""A research study: what a hospital is asked to agree to, once, by a person; signed with the consortium's key.

It holds the resolved configuration, so that neither a later order nor an installed default or folder of options can
change what was approved. An order names its study by digest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property, lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.config.named_weights import list_named_weights
from fedhealth.config.open_paths import OpenPath
from fedhealth.consortium.contract_text import describe_contract
from fedhealth.consortium.membership import PROJECT, Membership, Signature
from fedhealth.consortium.run_terms_text import describe_run_terms
from fedhealth.consortium.signatures import is_valid_signature, sign_body
from fedhealth.errors import TrustError
from fedhealth.types import SITE_ID
from fedhealth.utils.digest import digest_parts, encode_canonical
from fedhealth.utils.json_model import join_faults, parse_model
from fedhealth.utils.readable_text import is_paragraph, is_readable, iter_texts

PURPOSE = "study"
STUDY_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
MAX_STUDY_BYTES = 2**20
_MALFORMED = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_PARTS = ("secagg", "secagg.site", "secagg.lead")
_DECIDED_ONCE = {"purpose", *_PARTS, *(f"{part}._target_" for part in _PARTS)}
_LIKE_DIGEST = re.compile(r"[0-9a-f]{8,}", re.ASCII)
_FIRST_YEAR, _LAST_YEAR = 2000, 2199
MAX_RUNS = 1000
_ADVICE = "Ask the lead for the study as it was published."
_LONGEST_TEXT = 2000
_TEXTS = ("title", "purpose", "contact", "ethics")


@dataclass(frozen=True)
class ResearchStudy:
    """A study.

    Attributes:
        project: the consortium.
        name: of the study, the same in all its versions.
        version: 1, 2, ...; a later one replaces an earlier one where a hospital approves it.
        title: for people.
        purpose: what the results are for.
        contact: who answers questions.
        ethics: number of the ethics committee's or data authority's permit.
        first_day: ISO date; no run before it.
        last_day: ISO date; no run after it.
        members: names of the hospitals, sorted.
        overrides: of the configuration, as a person may try it.
        configuration: resolved, without the settings of one site or machine; its `data` is the data contract.
        open: the settings that runs may vary, and their allowed values.
        weights: digests of the pretrained weights that runs may start from, by the name in the configuration.
        runs: how many runs may touch the data.
        epsilon: of all runs together for each protected person; None without differential privacy.
        delta: at which epsilon holds.
        releases: what is released at the end, for people.
        closed: whether the lead has closed the study with this version.

    """

    project: str
    name: str
    version: int
    title: str
    purpose: str
    contact: str
    ethics: str
    first_day: str
    last_day: str
    members: tuple[str, ...]
    overrides: tuple[str, ...]
    configuration: Mapping[str, Any]
    open: tuple[OpenPath, ...]
    weights: Mapping[str, str]
    runs: int
    epsilon: float | None
    delta: float
    releases: tuple[str, ...]
    closed: bool = False

    @property
    def body(self) -> bytes:
        """The signed bytes."""
        return encode_canonical(asdict(self))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 by which orders name this version, hexadecimal."""
        return digest_parts(b"fedhealth study 1", self.body).hex()

    @property
    def label(self) -> str:
        """Name and version, for people."""
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class SignedStudy:
    """A study with the consortium's signature."""

    study: ResearchStudy
    signature: Signature

    def dumps(self) -> bytes:
        """Return the content of a published file, which also travels with the orders."""
        return encode_canonical({"study": asdict(self.study), "signature": self.signature.hex()})

    @staticmethod
    @lru_cache(maxsize=256)  # a site reads all its studies for each request, and its page for each view
    def loads(content: bytes) -> SignedStudy:
        """Parse a published file; its signature remains to be verified.

        Raises:
            TrustError: it is malformed.

        """
        found = parse_model(content, SignedStudy, "The study", _ADVICE, limit=MAX_STUDY_BYTES)
        if faults := list(find_study_errors(found.study)):
            raise TrustError(f"The study: {join_faults(faults)}.", _ADVICE)
        return found


def sign_study(study: ResearchStudy, key: Ed25519PrivateKey) -> SignedStudy:
    """Sign a study with the consortium's key."""
    return SignedStudy(study, sign_body(key, PURPOSE, study.body))


def verify_study(content: bytes, membership: Membership) -> SignedStudy:
    """Return a published study if the consortium signed it for this project.

    Raises:
        TrustError: it is malformed, of another project, or not signed by the consortium.

    """
    found = SignedStudy.loads(content)
    if not is_valid_signature(membership.consortium, found.signature, PURPOSE, found.study.body):
        raise TrustError("The study is not signed by the consortium.", _ADVICE)
    if found.study.project != membership.project:
        raise TrustError(f"The study belongs to the project {found.study.project}.", _ADVICE)
    return found


def find_study_errors(study: ResearchStudy) -> Iterator[str]:
    """Yield what is wrong with values that have the right type."""
    if not (PROJECT.fullmatch(study.project) and STUDY_NAME.fullmatch(study.name)):
        yield f"name: {study.name[:80]!r} is not a plain name (lower case letters, digits, . _ and -)"
    if _LIKE_DIGEST.fullmatch(study.name):
        yield f"name: {study.name[:80]!r} looks like the beginning of a digest, by which people name studies too"
    if not 1 <= study.version < 2**31:
        yield "version: must be at least 1"
    yield from _find_text_errors(study)
    first, last = _parse_day(study.first_day), _parse_day(study.last_day)
    if first is None or last is None or first > last:
        yield f"first_day and last_day: give two dates in order, such as 2026-03-31, before the year {_LAST_YEAR + 1}"
    if not study.members or list(study.members) != sorted(set(study.members)):
        yield "members: must be named once each, in order"
    yield from (f"members: {site[:80]!r} is no site name" for site in study.members if not SITE_ID.fullmatch(site))
    if not 1 <= study.runs <= MAX_RUNS:
        yield f"runs: must lie between 1 and {MAX_RUNS}"
    if study.epsilon is not None and not 0 < study.epsilon < math.inf:
        yield "epsilon: must be positive and finite"
    if not 0 < study.delta < 1:
        yield "delta: must lie between 0 and 1"
    yield from _find_contract_errors(study)
    yield from _find_open_errors(study)
    is_named = list_named_weights(study.configuration, study.open) == sorted(study.weights)
    if not (is_named and all(map(_DIGEST.fullmatch, study.weights.values()))):
        yield "weights: must be the SHA-256 of all weights that the configuration names, and of no others"


def _find_contract_errors(study: ResearchStudy) -> Iterator[str]:
    configuration = study.configuration
    if not isinstance(configuration.get("data"), dict):
        yield "configuration: has no description of the data"
        return
    try:
        list(describe_contract(configuration["data"]))
    except _MALFORMED:
        yield "configuration: the description of the data is incomplete"
        return
    sites = configuration["data"].get("sites")
    if not isinstance(sites, list) or sorted(map(str, sites)) != list(study.members):
        yield "members: must be the hospitals of data.sites, in order"
    try:
        list(describe_run_terms(configuration, study.open))
    except _MALFORMED:
        yield "configuration: the description of the runs is incomplete"


def _find_open_errors(study: ResearchStudy) -> Iterator[str]:
    """Yield what a study leaves open although people approve it: data, purpose, privacy, sums."""
    for each in study.open:
        if each.path.startswith("data.") or each.path == "data":
            yield "open: the meaning of the data is never left open"
        if each.path in _DECIDED_ONCE:
            yield f"open: {each.path}: what a run is for, and what the lead reads, is never left open"
        is_kind = each.path in ("privacy._target_", "privacy.unit", "privacy")
        if is_kind or (each.path == "privacy.epsilon" and (each.may_be_absent or None in each.values)):
            yield f"open: {each.path}: whether and whom differential privacy protects is never left open"


def _find_hidden_text(study: ResearchStudy) -> Iterator[str]:
    """Yield where control or direction characters could forge or hide a line that a person reads."""
    parts = {
        "configuration": study.configuration,
        "open": [[each.path, each.values] for each in study.open],
        "weights": study.weights,
    }
    for name, part in parts.items():
        if not all(map(is_readable, iter_texts(part))):
            yield f"{name}: has a name or text that is not printable"


def _find_text_errors(study: ResearchStudy) -> Iterator[str]:
    texts = {name: getattr(study, name) for name in _TEXTS} | {
        f"releases[{i}]": t for i, t in enumerate(study.releases)
    }
    for name, text in texts.items():
        if not is_paragraph(text, _LONGEST_TEXT):
            yield f"{name}: give one paragraph of at most {_LONGEST_TEXT} characters"
    yield from _find_hidden_text(study)
    if not all(is_readable(override) and len(override) <= _LONGEST_TEXT for override in study.overrides):
        yield "overrides: must be printable"


def _parse_day(text: str) -> date | None:
    """Return the date of a text such as 2026-03-31; None for every other form, and for years that are no plan."""
    try:
        found = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        return None
    return found if found and _FIRST_YEAR <= found.year <= _LAST_YEAR else None
