"""The errors a user can meet: what happened, what to do about it, and the exit code.

The command line catches `FedhealthError` and nothing else; anything that is not one is a bug and keeps its
traceback. Scripts may rely on the exit codes.
"""

import errno

_STORAGE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file may not grow further",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk fails",
    errno.EACCES: "access is denied",
}


class FedhealthError(Exception):
    """Base of every fault that is the user's, the data's or the federation's, never the code's.

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
    """The configuration names something that does not exist or cannot work."""

    exit_code = 2


class DataError(FedhealthError):
    """A manifest, an image, a table or a label is not what the configuration says."""

    exit_code = 3


class ModelError(FedhealthError):
    """A model or its weights cannot be built, loaded or trained as asked."""

    exit_code = 4


class FederationError(FedhealthError):
    """The sites could not complete the run: too few accepted, answered or agreed."""

    exit_code = 5


class PrivacyError(FedhealthError):
    """A privacy promise would be broken: budget, policy, or an unsound mechanism."""

    exit_code = 6


class SecureAggregationError(FedhealthError):
    """A secure-aggregation message or state broke the protocol; nothing was opened."""

    exit_code = 7


class TrustError(FedhealthError):
    """A key, certificate, kit, job or log is not the one that was approved."""

    exit_code = 8


class NotReadyError(FedhealthError):
    """A check of the installation or of the site failed; the table of checks says which."""

    exit_code = 9


class SweepError(FedhealthError):
    """Some runs of a sweep did not complete; the others did."""

    exit_code = 10


class StorageError(FedhealthError):
    """The disk is full, read-only, failing, or not this user's."""

    exit_code = 11


def storage_fault(fault: BaseException) -> StorageError | None:
    """Return what the operating system says of the disk; None where a fault is another one."""
    if not isinstance(fault, OSError) or fault.errno not in _STORAGE:
        return None
    if fault.errno == errno.EACCES and not fault.filename:  # of a port, say
        return None
    what = _STORAGE[fault.errno]
    problem = f"{fault.filename}: {what}." if fault.filename else f"{what[0].upper()}{what[1:]}."
    return StorageError(problem, "Make room, or give access, and start again; nothing half-written counts.")


KINDS: tuple[type[FedhealthError], ...] = (
    ConfigError,
    DataError,
    ModelError,
    FederationError,
    PrivacyError,
    SecureAggregationError,
    TrustError,
    StorageError,
)
"""Every kind there is: a site's answer may name one of these and nothing else of a fault."""
