"""The names and types of everything that crosses the network between the lead and a site."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedhealth.errors import KINDS, FederationError, storage_fault

if TYPE_CHECKING:  # torch takes seconds, and commands that only read names have no use for it
    from fedhealth.types import State

PROTOCOL_VERSION = 1
SAME_RELEASE = "Use the same fedhealth release everywhere."

# Message types: what the lead may ask of a site.
HANDSHAKE = "query.handshake"
TRAIN = "train.fit"
EVALUATE = "evaluate.score"
DESCRIBE = "query.describe"  # statistics of the patients; no model is involved
SIGN = "query.sign"  # secure aggregation: sign the list of survivors
END = "query.end"  # the job is done
UNMASK = "query.unmask"  # secure aggregation: open the shares of the survivors' masks

# Record names.
DIRECTIVE = "directive"  # to the site: a Directive
GLOBAL = "global"  # to the site: the shared arrays
ACCEPTANCE = "acceptance"  # to the lead: an Acceptance
UPDATE = "update"  # to the lead: shared arrays after training minus before, float32
STATISTICS = "statistics"  # to the lead: int64 vectors that may be summed
SECAGG = "secagg"  # both ways: secure aggregation's own messages, bytes
SEALED = "sealed"  # to the lead: masked segments, uint8

WAIT_HEADER = "fedhealth-wait"  # of a site's request: how many seconds it may be kept until there is an answer

SITE_ERROR = 1000  # error codes of a site: this + the exit code of the error's kind; never its text
LOSS_UNIT = 2**20  # fixed point of sums of losses

_ERRORS = {"InternalError": SITE_ERROR}
_ERRORS |= {kind.__name__: SITE_ERROR + kind.exit_code for kind in KINDS}
_PACKAGES = ("fedhealth", "flwr", "torch", "numpy")


@dataclass(frozen=True)
class Directive:
    """What a site is told with every task.

    Attributes:
        run: our own run id.
        digest: of the configuration, see `fedhealth.config.compose.digest`.
        round: the training round, from 1; 0 outside training.
        exchange: strictly increasing over the run, also when a round is repeated.
        attempt: of this exchange, from 0.
        cohort: names of the sites asked, sorted.
        missed: those of them whose last answer failed or came too late.

    """

    run: str
    digest: str
    round: int
    exchange: int
    attempt: int
    cohort: tuple[str, ...]
    missed: tuple[str, ...] = ()

    def record(self) -> ConfigRecord:
        """Return it as a Flower record."""
        lists = {"cohort": list(self.cohort), "missed": list(self.missed)}
        return ConfigRecord({**asdict(self), **lists, "protocol": PROTOCOL_VERSION})

    @staticmethod
    def parse(content: RecordDict) -> Directive:
        """Read it back.

        Raises:
            FederationError: a record of another shape or protocol.

        """
        try:
            record = words_in(content, DIRECTIVE)
            protocol = record["protocol"]
            words = [str(record[name]) for name in ("run", "digest")]
            numbers = [int(record[name]) for name in ("round", "exchange", "attempt")]
            cohort, missed = (tuple(map(str, record[name])) for name in ("cohort", "missed"))
        except (KeyError, TypeError, ValueError) as fault:
            raise FederationError(f"A directive lacks or garbles {fault}.", SAME_RELEASE) from fault
        if protocol != PROTOCOL_VERSION:
            raise FederationError(f"The lead speaks protocol {protocol!r}, this site {PROTOCOL_VERSION}.", SAME_RELEASE)
        return Directive(words[0], words[1], numbers[0], numbers[1], numbers[2], cohort, missed)


@dataclass(frozen=True)
class Acceptance:
    """A site's answer to the handshake: yes, or the reasons against.

    Attributes:
        site: its name.
        reasons: why it does not take part; empty if it does.
        weights: by tower (and `shared`), what its update counts in the mean.
        versions: of the packages that matter.
        exchange: the last one of this run that the site took part in; the lead goes on above it.
        reserved: to a sweep's statement, the epsilon of all its runs together at this site.

    """

    site: str
    reasons: tuple[str, ...]
    weights: Mapping[str, float]
    versions: str
    exchange: int = 0
    reserved: float = 0.0

    def record(self) -> ConfigRecord:
        """Return it as a Flower record."""
        fields: dict[str, Any] = {"site": self.site, "versions": self.versions, "reasons": list(self.reasons)}
        fields |= {"exchange": self.exchange, "reserved": float(self.reserved)}
        fields |= {"towers": list(self.weights), "weights": [float(weight) for weight in self.weights.values()]}
        return ConfigRecord(fields)

    @staticmethod
    def parse(content: RecordDict) -> Acceptance:
        """Read it back.

        Raises:
            FederationError: a record of another shape, or weights that are no weights.

        """
        try:
            record = words_in(content, ACCEPTANCE)
            reasons = tuple(map(str, record["reasons"]))
            weights = {str(t): float(w) for t, w in zip(record["towers"], record["weights"], strict=True)}
            exchange, reserved = int(record["exchange"]), float(record["reserved"])
            found = Acceptance(str(record["site"]), reasons, weights, str(record["versions"]), exchange, reserved)
        except (KeyError, TypeError, ValueError) as fault:
            raise FederationError(f"A site's acceptance lacks or garbles {fault}.", SAME_RELEASE) from fault
        numbers = [*found.weights.values(), reserved]
        if not all(0 <= number < 2**40 for number in numbers) or not 0 <= exchange < 2**31:
            raise FederationError(f"Site {found.site!r} announced an impossible number.", SAME_RELEASE)
        return found


def digest_of(arrays: State) -> bytes:
    """Return the SHA-256 of named arrays: names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.data)
    return digest.digest()


def task_digest(kind: str, directive: Directive) -> bytes:
    """Return the SHA-256 of what a site is told to do with the arrays."""
    missed = ",".join(directive.missed)
    return hashlib.sha256(f"{kind}|{directive.digest}|{directive.round}|{missed}".encode()).digest()


def words_in(content: RecordDict, name: str) -> Mapping[str, Any]:
    """Return a record of words and numbers.

    Raises:
        FederationError: there is none of that name.

    """
    record = content.get(name)
    if not isinstance(record, ConfigRecord):
        raise FederationError(f"A message lacks the record {name!r}.", SAME_RELEASE)
    return record


def size_of(message: Message) -> int:
    """Return the payload of a message in bytes."""
    return sum(map(payload_of, message.content.values())) if message.has_content() else 0


def payload_of(record: Any) -> int:
    """Return the payload of a record in bytes; words count as they print (Flower 1.41 cannot count empty ones)."""
    if isinstance(record, ArrayRecord):
        return record.count_bytes()
    return sum(len(key) + len(value if isinstance(value, bytes) else str(value)) for key, value in record.items())


def error_of(fault: Exception) -> Error:
    """Return the kind of a site's fault, and nothing of what it says."""
    known = type(storage_fault(fault) or fault).__mro__
    kind = next((kind.__name__ for kind in known if kind.__name__ in _ERRORS), "InternalError")
    return Error(_ERRORS[kind], kind)


def failure(fault: Exception, message: Message) -> Message:
    """Return the reply that names the kind of a site's fault."""
    return Message(error_of(fault), reply_to=message)


def is_error_kind(code: int, reason: str) -> bool:
    """Tell whether an error is one that `failure` writes: a kind of fault and nothing else."""
    return _ERRORS.get(reason) == code


def versions() -> str:
    """Return the releases that must agree between lead and sites for equal results."""
    return " ".join([f"python={platform.python_version()}", *(f"{name}={version(name)}" for name in _PACKAGES)])
