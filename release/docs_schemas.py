"""A hook of MkDocs: the schemas of the files that people edit are a part of the documentation."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from fedhealth.utils.json_schema import dump_schema, get_schema_name
from release.schemas import FILES


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add one schema for each file."""
    for file, kind in FILES.items():
        files.append(File.generated(config, f"schemas/{get_schema_name(file)}", content=dump_schema(kind)))
    return files
