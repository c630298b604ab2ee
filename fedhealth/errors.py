"""The errors that a user can see: what happened, what to do about it, and the exit code.

The command line catches `FedhealthError`, and what a user's own code raises; any other exception is a bug and keeps its
traceback. Scripts may rely on the exit codes.
"""

import errno

_STORAGE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file may not grow any further",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk has an input/output error",
    errno.EACCES: "access is denied",
}


class FedhealthError(Exception):
    """Base of all faults caused by the user, the data or the federation, not by a bug.

    Args:
        problem: what happened and where (file, row, key, site), one or two sentences.
        advice: what to do about it, one sentence in the imperative.

    """

    exit_code = 1

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(problem, advice)
        self.problem = problem
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.problem}\n{self.advice}" if self.advice else self.problem


class ConfigError(FedhealthError):
    """The configuration names something that does not exist or does not work."""

    exit_code = 2


class DataError(FedhealthError):
    """A manifest, an image, a table or a label does not match the configuration."""

    exit_code = 3


class ModelError(FedhealthError):
    """A model or its weights cannot be built, loaded or trained as configured."""

    exit_code = 4


class FederationError(FedhealthError):
    """The sites could not complete the run: too few accepted, replied or agreed."""

    exit_code = 5


class PrivacyError(FedhealthError):
    """A privacy guarantee would be broken: budget, policy, or an unsound mechanism."""

    exit_code = 6


class SecureAggregationError(FedhealthError):
    """A secure-aggregation message or state violated the protocol; nothing was unmasked."""

    exit_code = 7


class TrustError(FedhealthError):
    """A key, certificate, kit, job or log is not the approved one."""

    exit_code = 8


class NotReadyError(FedhealthError):
    """A check of the installation or of the site failed; the table of checks shows which."""

    exit_code = 9


class SweepError(FedhealthError):
    """Some runs of a sweep did not complete; the others did."""

    exit_code = 10


class StorageError(FedhealthError):
    """The disk is full, read-only or failing, or access is denied."""

    exit_code = 11


class StartRefusedError(FedhealthError):
    """A server or site that must not start: it is running already, or its address is in use."""

    exit_code = 17


class SiteTaskError(FedhealthError):
    """A site's task failed after it had touched the data. It names no cause: the cause may depend on a patient."""

    exit_code = 16  # the exit codes 12 to 15 are those of `fedhealth status`


class RequestMismatchError(FedhealthError):
    """A request of the lead contradicts what the site computed or decided itself; it names no field."""

    exit_code = 18


def as_storage_error(fault: BaseException) -> StorageError | None:
    """Convert an operating system error about the disk; None for any other fault."""
    if not isinstance(fault, OSError) or fault.errno not in _STORAGE:
        return None
    if fault.errno == errno.EACCES and not fault.filename:  # of a port, for example
        return None
    what = _STORAGE[fault.errno]
    problem = f"{fault.filename}: {what}." if fault.filename else f"{what[0].upper()}{what[1:]}."
    return StorageError(problem, "Make room, or give access, and start again; nothing half-written counts.")


ERROR_TYPES: tuple[type[FedhealthError], ...] = (
    ConfigError,
    DataError,
    ModelError,
    FederationError,
    PrivacyError,
    SecureAggregationError,
    TrustError,
    StorageError,
    SiteTaskError,
    RequestMismatchError,
)
"""All types of error: a site's reply names one of these and reveals nothing else about a fault."""
