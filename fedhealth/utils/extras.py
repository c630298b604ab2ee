"""Optional packages: which extra installs each, and the error that says so."""

from __future__ import annotations

from importlib.util import find_spec

from fedhealth.errors import ConfigError

EXTRAS = {
    "matplotlib": "report",
    "mlflow": "tracking",
    "openpyxl": "excel",
    "optuna": "sweeps",
    "ray": "simulation",
    "requests": "sources",
    "dicomweb_client": "sources",
    "pg8000": "sources",
    "duckdb_engine": "sources",
}
"""The extra that installs a module."""

_SIDES = {"report": "lead", "sweeps": "lead", "tracking": "lead", "sources": "site-sources"}  # of the release's locks


def build_missing_error(module: str) -> ConfigError:
    """Return the error for a module of `EXTRAS` that is not installed, with the command to install it."""
    extra = EXTRAS[module]
    release = f" With a release: install.sh --side {_SIDES[extra]}." if extra in _SIDES else ""
    return ConfigError(f"{module} is not installed.", f"Install it: pip install 'fedhealth[{extra}]'.{release}")


def require_module(module: str) -> None:
    """Check that a module of `EXTRAS` is installed, before any work is done that needs it.

    Raises:
        ConfigError: it is not.

    """
    if find_spec(module) is None:
        raise build_missing_error(module)
