"""Propose ingest settings for a folder of images and some tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedhealth.config.schema import DataConfig
from fedhealth.data.read_table import read_table
from fedhealth.errors import ConfigError
from fedhealth.ingest.assign_columns import propose_table
from fedhealth.ingest.match_columns import find_keys, read_headers
from fedhealth.ingest.proposal_text import render_settings
from fedhealth.ingest.settings import UNDECIDED
from fedhealth.ingest.source import Folder


def propose_settings(
    site: str | None, conf: Path | None, folder: Path, tables: Sequence[Path], data: DataConfig
) -> str:
    """Look at files and tables, and return the text of a settings file with what could be found out.

    Args:
        site: the hospital's name in the consortium; None if it is not known.
        conf: folder of the consortium's configuration files, if they are not installed with fedhealth.
        folder: of the images.
        tables: of reports, labels and laboratory values.
        data: the consortium's description.

    Raises:
        ConfigError: a table is in the command twice.
        DataError: the folder has no file, or a table cannot be read.

    """
    if len(set(tables)) < len(tables):
        raise ConfigError("A table is named twice.", "Name each table once.")
    root = folder.absolute()
    headers = read_headers(Folder(str(root)))
    proposals = [propose_table(table, find_keys(table, headers), data) for table in map(read_table, tables)]
    return render_settings(site or UNDECIDED, conf, root, headers, proposals, data)
