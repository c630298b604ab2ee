"""Names and types of the messages between the lead and a site."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedhealth.errors import ERROR_TYPES, FederationError, SiteTaskError, as_storage_error
from fedhealth.utils.digest import TranscriptDigest, digest_parts
from fedhealth.utils.readable_text import escape_invisible

if TYPE_CHECKING:  # importing torch takes seconds, and many commands need only names
    from fedhealth.types import State

PROTOCOL_VERSION = 4
_MOST_REASONS, _LONGEST_REASON = 50, 1000  # that a site may give for a decline
SAME_RELEASE = "Use the same fedhealth release everywhere."

# Message types: the requests of the lead to a site.
HANDSHAKE = "query.handshake"
TRAIN = "train.fit"
EVALUATE = "evaluate.score"
DESCRIBE = "query.describe"  # statistics of the patients; no model is involved
SIGN = "query.sign"  # secure aggregation: sign the list of survivors
END = "query.end"  # the job is done
ABANDON = "query.abandon"  # secure aggregation: promise never to unmask an attempt
UNMASK = "query.unmask"  # secure aggregation: open the shares of the survivors' masks
PURPOSES = {TRAIN: "train", EVALUATE: "evaluate", DESCRIBE: "describe"}  # of a request, by message type
DATA_KINDS = frozenset(PURPOSES)  # a reply to one of these is computed from patients' data
TIMED_KINDS = DATA_KINDS | {HANDSHAKE}  # how long one of these takes, and whether it fails, may depend on the data

# Record names.
DIRECTIVE = "directive"  # to the site: a Directive
GLOBAL = "global"  # to the site: the shared arrays
ACCEPTANCE = "acceptance"  # to the lead: an Acceptance
UPDATE = "update"  # to the lead: shared arrays after training minus before, float32
STATISTICS = "statistics"  # to the lead: int64 vectors that may be summed
SECAGG = "secagg"  # both ways: secure aggregation's own messages, bytes
STATEMENT = "statement"  # both ways: signed statements of sites about their own state, bytes
SEALED = "sealed"  # to the lead: masked segments, uint8

WAIT_HEADER = (
    "fedhealth-wait"  # header of a site's request: for how many seconds the lead may delay the response (long polling)
)

SITE_ERROR = 1000  # error codes of a site: this + the exit code of the error's kind; never its text
TASK_ERROR = SITE_ERROR + SiteTaskError.exit_code  # also of a worker that died or exceeded a limit
LOSS_UNIT = 2**20  # fixed point of sums of losses

_ERRORS = {"InternalError": SITE_ERROR}
_ERRORS |= {kind.__name__: SITE_ERROR + kind.exit_code for kind in ERROR_TYPES}
_LONGEST_TEXT = 200  # characters of a name or digest in a directive, which goes into the log
_PACKAGES = ("fedhealth", "flwr", "torch", "numpy")


@dataclass(frozen=True)
class Directive:
    """Instructions that accompany every request to a site.

    Attributes:
        run: our own run id.
        digest: of the configuration, see `fedhealth.config.compose.compute_config_digest`.
        round: the training round, from 1; 0 outside training.
        exchange: strictly increasing over the run, also when a round is repeated.
        attempt: of this exchange, from 0.
        cohort: names of the sites that receive the request, sorted.
        missed: those of them whose last reply failed or missed the deadline.
        repetition: the exchange in which this request was made first; its repetition is answered anew.

    """

    run: str
    digest: str
    round: int
    exchange: int
    attempt: int
    cohort: tuple[str, ...]
    missed: tuple[str, ...] = ()
    repetition: int = 0

    def record(self) -> ConfigRecord:
        """Return it as a Flower record."""
        lists = {"cohort": list(self.cohort), "missed": list(self.missed)}
        return ConfigRecord({**asdict(self), **lists, "protocol": PROTOCOL_VERSION})

    @staticmethod
    def parse(content: RecordDict) -> Directive:
        """Parse a record.

        Raises:
            FederationError: a record of another shape or protocol version.

        """
        try:
            record = get_config_record(content, DIRECTIVE)
            protocol = record["protocol"]
            texts = [_require_text(record[name]) for name in ("run", "digest")]
            numbers = [_require_integer(record[name]) for name in ("round", "exchange", "attempt", "repetition")]
            cohort, missed = (tuple(map(_require_text, record[name])) for name in ("cohort", "missed"))
        except (KeyError, TypeError, ValueError) as fault:
            raise FederationError(f"A directive is missing or has malformed {fault}.", SAME_RELEASE) from fault
        if protocol != PROTOCOL_VERSION:
            raise FederationError(f"The lead uses protocol {protocol!r}, this site {PROTOCOL_VERSION}.", SAME_RELEASE)
        number, exchange, attempt, repetition = numbers
        return Directive(texts[0], texts[1], number, exchange, attempt, cohort, missed, repetition)


def _require_text(value: object) -> str:
    """Return a value of a message that must be a text of a name's or a digest's length.

    Raises:
        ValueError: it is something else, or longer.

    """
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError("text")
    return value


def _require_integer(value: object) -> int:
    """Return a value of a message that must be a whole number.

    Raises:
        TypeError: it is something else, such as an infinite float.

    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("number")
    return value


@dataclass(frozen=True)
class PrivacyClaim:
    """What a site says that a run will spend there, spare rounds included; zeros without differential privacy.

    Attributes:
        epsilon: of the whole run.
        delta: at which it is measured.
        noise_multiplier: of the training, or of the counts where a run only describes.

    """

    epsilon: float = 0.0
    delta: float = 0.0
    noise_multiplier: float = 0.0


@dataclass(frozen=True)
class Acceptance:
    """A site's reply to the handshake: it accepts, or declines with reasons.

    Attributes:
        site: its name.
        reasons: why it declines; empty if it accepts.
        weights: by tower (and `shared`), the weight of its update in the mean.
        versions: of the packages that must be the same everywhere.
        exchange: the last one of this run that the site took part in; the lead continues above it.
        reserved: in reply to a sweep's budget request, the total epsilon of its runs at this site.
        privacy: what the run will spend at this site, by the site's own plan.

    """

    site: str
    reasons: tuple[str, ...]
    weights: Mapping[str, float]
    versions: str
    exchange: int = 0
    reserved: float = 0.0
    privacy: PrivacyClaim = PrivacyClaim()

    def record(self) -> ConfigRecord:
        """Return it as a Flower record."""
        values: dict[str, Any] = {"site": self.site, "versions": self.versions, "reasons": list(self.reasons)}
        values |= {"exchange": self.exchange, "reserved": float(self.reserved)}
        values |= {name: float(value) for name, value in asdict(self.privacy).items()}
        values |= {"towers": list(self.weights), "weights": [float(weight) for weight in self.weights.values()]}
        return ConfigRecord(values)

    @staticmethod
    def parse(content: RecordDict) -> Acceptance:
        """Parse a record.

        Raises:
            FederationError: a record of another shape, or a weight out of range.

        """
        try:
            record = get_config_record(content, ACCEPTANCE)
            reasons = tuple(_shorten(str(each)) for each in record["reasons"][:_MOST_REASONS])
            weights = {str(t): float(w) for t, w in zip(record["towers"], record["weights"], strict=True)}
            exchange, reserved = int(record["exchange"]), float(record["reserved"])
            privacy = PrivacyClaim(*(float(record[each.name]) for each in fields(PrivacyClaim)))
            site, versions = _shorten(str(record["site"])), _shorten(str(record["versions"]))
            found = Acceptance(site, reasons, weights, versions, exchange, reserved, privacy)
        except (KeyError, OverflowError, TypeError, ValueError) as fault:
            problem = f"A site's acceptance is missing or has malformed {_shorten(str(fault))}."
            raise FederationError(problem, SAME_RELEASE) from fault
        numbers = [*found.weights.values(), reserved, *asdict(privacy).values()]
        if not all(0 <= number < 2**40 for number in numbers) or not 0 <= exchange < 2**31:
            raise FederationError(f"Site {found.site!r} announced a number out of range.", SAME_RELEASE)
        return found


def _shorten(text: str) -> str:
    """Return the beginning of what a site says, as a terminal can show it."""
    return escape_invisible(text[:_LONGEST_REASON])


def digest_arrays(arrays: State) -> bytes:
    """Return the SHA-256 of named arrays: names, types, shapes and values, in order of their names."""
    digest = TranscriptDigest(b"fedhealth arrays 2")
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.add(name.encode(), array.dtype.str.encode(), str(array.shape).encode(), array.data)
    return digest.digest()


def digest_task(kind: str, directive: Directive) -> bytes:
    """Return the SHA-256 of the task that a site performs on the arrays."""
    parts = (kind, directive.digest, str(directive.round), *directive.missed)
    return digest_parts(b"fedhealth task 2", *(part.encode() for part in parts))


def get_config_record(content: RecordDict, name: str) -> Mapping[str, Any]:
    """Return a record of texts and numbers.

    Raises:
        FederationError: there is no such record.

    """
    record = content.get(name)
    if not isinstance(record, ConfigRecord):
        raise FederationError(f"A message lacks the record {name!r}.", SAME_RELEASE)
    return record


def compute_message_size(message: Message) -> int:
    """Return the payload of a message in bytes."""
    return sum(map(compute_record_size, message.content.values())) if message.has_content() else 0


def compute_record_size(record: Any) -> int:
    """Return the payload of a record in bytes; texts and numbers count as printed (Flower cannot count empty lists)."""
    if isinstance(record, ArrayRecord):
        return record.count_bytes()
    return sum(len(key) + _count_value_bytes(value) for key, value in record.items())


def _count_value_bytes(value: Any) -> int:
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return sum(map(len, value))
    return len(value if isinstance(value, bytes) else str(value))


def build_error(fault: Exception) -> Error:
    """Return the type of a site's fault without its message."""
    known = type(as_storage_error(fault) or fault).__mro__
    kind = next((kind.__name__ for kind in known if kind.__name__ in _ERRORS), "InternalError")
    return Error(_ERRORS[kind], kind)


def build_error_reply(fault: Exception, message: Message) -> Message:
    """Return the reply that names the type of a site's fault."""
    return Message(build_error(fault), reply_to=message)


def is_error_kind(code: int, reason: str) -> bool:
    """Return whether `build_error_reply` wrote an error: a type of fault and nothing else."""
    return _ERRORS.get(reason) == code


@cache  # a site's gate compares them with every reply
def get_versions() -> str:
    """Return the versions that must be equal at lead and sites for equal results."""
    return " ".join([f"python={platform.python_version()}", *(f"{name}={version(name)}" for name in _PACKAGES)])
