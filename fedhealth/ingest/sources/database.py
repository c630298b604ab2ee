"""Read from a hospital's database through SQLAlchemy: SQLite, DuckDB or PostgreSQL, read only, with a time limit.

SQLite and DuckDB open the file read only. PostgreSQL gets a read-only transaction with a statement timeout, over TLS
with a checked certificate, except on this machine.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.sources.access import CONNECT_SECONDS, LOOPBACK, find_access_file, read_secret

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine, Select

_INSTALL = "Install the extra: pip install 'fedhealth[sources]'."
_DRIVERS = {"sqlite": "sqlite", "duckdb": "duckdb", "postgresql": "postgresql+pg8000"}
_ROWS = 10_000  # fetched at a time


@dataclass(frozen=True)
class DatabaseAccess:
    """How a database is reached.

    Attributes:
        url: `sqlite:////PATH`, `duckdb:////PATH` or `postgresql://USER@HOST/NAME`, without a password.
        password_file: file with the password.
        password_variable: or the name of an environment variable.
        ca: certificates of the authorities that may have signed the server's; empty = those of this machine.
        seconds: longest time of one statement.

    """

    url: str
    password_file: str = ""
    password_variable: str = ""
    ca: str = ""
    seconds: float = 300.0


def check_database_url(url: str) -> None:
    """Check an address without connecting.

    Raises:
        ConfigError: it has a password, or names another kind of database.

    """
    parsed = _parse_url(url)
    if parsed.password is not None:
        raise ConfigError("The database's address contains a password.", "Put it into a file: password_file.")
    if parsed.drivername not in _DRIVERS:
        raise ConfigError(
            f"{parsed.drivername}: this kind of database is not supported.", f"Supported are {', '.join(_DRIVERS)}."
        )
    if parsed.query:
        raise ConfigError("The database's address has options.", "Remove what follows the question mark.")
    if parsed.drivername != "postgresql" and not parsed.database:
        raise ConfigError("The database's address names no file.", f"Write {parsed.drivername}:////PATH.")


def format_statement(statement: Select[Any], url: str) -> str:
    """Return a statement as SQL, with its values, as the database will read it."""
    from sqlalchemy.dialects import postgresql, sqlite

    module: Any = sqlite if _parse_url(url).drivername == "sqlite" else postgresql
    dialect = module.dialect()
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


@contextmanager
def open_database(access: DatabaseAccess) -> Iterator[Connection]:
    """Connect for reading.

    Raises:
        ConfigError: a password or a driver is missing.
        DataError: the database cannot be reached, or refuses a statement.

    """
    from sqlalchemy.exc import SQLAlchemyError

    engine = _create_engine(access)
    name = _parse_url(access.url).render_as_string()
    try:
        with engine.connect() as connection:
            _forbid_writing(connection, access.seconds)
            yield connection
    except (SQLAlchemyError, OSError) as fault:
        # The driver's message may quote cells; its kind does not.
        cause = getattr(fault, "orig", None) or fault
        raise DataError(
            f"{name}: the database cannot be read ({type(cause).__name__}).",
            "Check the address, the account's right to read, the schema, and the time limit (seconds).",
        ) from None
    finally:
        engine.dispose()


def iterate_rows(connection: Connection, statement: Select[Any]) -> Iterator[tuple[Any, ...]]:
    """Run a statement and yield its rows; they are fetched in parts."""
    streamed = connection.execution_options(stream_results=True, yield_per=_ROWS)
    for row in streamed.execute(statement):
        yield tuple(row)


def _create_engine(access: DatabaseAccess) -> Engine:
    import sqlalchemy

    check_database_url(access.url)
    url = _parse_url(access.url)
    kind, arguments = url.drivername, dict[str, Any]()
    if kind == "postgresql":
        if access.password_file or access.password_variable:
            url = url.set(password=read_secret(access.password_file, access.password_variable, "password"))
        arguments = {"timeout": int(CONNECT_SECONDS + access.seconds)}
        if (url.host or "localhost") not in LOOPBACK:
            ca = find_access_file(access.ca, "ca") if access.ca else None
            arguments["ssl_context"] = ssl.create_default_context(cafile=ca)
    else:
        path = Path(url.database or "")
        if not path.is_file():
            raise DataError(f"{path}: the database does not exist.", "Correct its address.")
        if kind == "sqlite":
            url = url.set(database=f"file:{path.absolute().as_uri().removeprefix('file://')}").update_query_dict(
                {"mode": "ro", "uri": "true"}
            )
        else:
            arguments = {"read_only": True, "config": {"threads": 1}}
    try:
        return sqlalchemy.create_engine(url.set(drivername=_DRIVERS[kind]), connect_args=arguments)
    except (ImportError, sqlalchemy.exc.NoSuchModuleError):
        raise ConfigError(f"The driver of {kind} is not installed.", _INSTALL) from None


def _forbid_writing(connection: Connection, seconds: float) -> None:
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION READ ONLY"))
        connection.execute(text(f"SET LOCAL statement_timeout = {int(1000 * seconds)}"))
    elif connection.dialect.name == "sqlite":
        connection.execute(text("PRAGMA query_only = ON"))


def _parse_url(url: str) -> URL:
    try:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        raise ConfigError("sqlalchemy is not installed.", _INSTALL) from None
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError("The database's address cannot be read.", "Write postgresql://USER@HOST/NAME.") from None
