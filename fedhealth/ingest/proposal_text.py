"""Write a proposal as commented settings, for a person to edit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedhealth.config.schema import DataConfig
from fedhealth.data.describe_column import describe_column, format_mapping, quote_word
from fedhealth.ingest.assign_columns import TableProposal
from fedhealth.ingest.image_content import IMAGE, NAMES
from fedhealth.ingest.match_columns import MOST_FILES, FolderHeaders
from fedhealth.ingest.settings import UNDECIDED
from fedhealth.utils.json_schema import format_schema_line

SETTINGS_FILE = "ingest.yaml"


def render_settings(
    site: str,
    conf: Path | None,
    root: Path,
    headers: FolderHeaders,
    proposals: Iterable[TableProposal],
    data: DataConfig,
) -> str:
    """Return the text of an ingest settings file; `???` stands where a person has to decide."""
    tables = list(proposals)
    rules = [*dict.fromkeys(rule for each in tables for match in each.keys for rule in match.rules)]
    lines = [
        format_schema_line(SETTINGS_FILE),
        "# Proposed by `fedhealth site ingest --propose`. Check every line; replace each ???; docs/ingest.md explains.",
        f"site: {quote_word(site)}",
        f"data: {quote_word(data.name)}",
        *([f"conf: {quote_word(str(conf))}"] if conf else []),
        "source:",
        "  _target_: fedhealth.ingest.source.Folder",
        f"  root: {quote_word(str(root))}",
        *_render_rules(rules),
        *(["tables:"] if tables else []),
        *(line for each in tables for line in _render_table(each)),
        *_render_missing(tables, data),
        *_render_selection(headers),
    ]
    return "\n".join(lines) + "\n"


def _render_rules(rules: list[str]) -> Iterator[str]:
    if rules:
        yield "# Tables and images spell identifiers differently; remove a rule if two spellings are two patients."
        yield f"identifiers: {{rules: [{', '.join(rules)}]}}"


def _render_table(proposal: TableProposal) -> Iterator[str]:
    yield f"  - path: {quote_word(str(proposal.table.path.absolute()))}"
    yield from (f"    # {note}" for note in proposal.table.notes)
    if proposal.keys:
        for match in proposal.keys:
            yield f"    # {match.column}: {match.matched} of its {match.codes} are those of images ({match.images})"
        yield f"    keys: {format_mapping({match.key: match.column for match in proposal.keys})}"
    else:
        yield "    # UNDECIDED: no column matches the images' headers; name the patients' column, or remove the table."
        yield f"    keys: {format_mapping({'patient': UNDECIDED})}"
    yield f"    columns: {format_mapping(proposal.columns)}"
    if proposal.names:
        yield f"    names: [{', '.join(map(quote_word, proposal.names))}]"
    if proposal.decimal != ".":
        yield f"    decimal: {quote_word(proposal.decimal)}"
    yield from (f"    # UNDECIDED {note}" for note in proposal.notes)
    if proposal.units:
        yield f"    units: {format_mapping(proposal.units)}"
    if proposal.words:
        yield "    words:"
        yield from (f"      {quote_word(name)}: {format_mapping(words)}" for name, words in proposal.words.items())
    yield "    # Its columns:"
    yield from (f"    #   {name}: {describe_column(each)}" for name, each in proposal.profiles.items())


def _render_missing(tables: list[TableProposal], data: DataConfig) -> Iterator[str]:
    found = {name for each in tables for name in each.columns}
    missing = [name for name in (*data.columns.labels, *data.tabular) if name not in found]
    for name in missing:
        kind = "label" if name in data.columns.labels else "variable"
        must = ", and the consortium requires it" if name in data.tabular and data.tabular[name].required else ""
        yield f"# UNDECIDED {name}: no column was found for this {kind}{must}; add it to `columns` if a table has it."


def _render_selection(headers: FolderHeaders) -> Iterator[str]:
    fields = headers.fields.values()
    read = f"the first {MOST_FILES}" if headers.files > MOST_FILES else "all"
    yield f"# {len(headers.fields)} images in {headers.files} files ({read} were read)."
    others = Counter(NAMES[each.content] for each in fields if each.content != IMAGE)
    yield from (f"# Left out: {count} {name}." for name, count in sorted(others.items()))
    series: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in fields:
        if each.content == IMAGE:
            series[each.modality][each.series] += each.frames == 1
    yield "select:"
    for modality, counts in sorted(series.items()):
        stack = ", stack: series, take: middle" if max(counts.values()) > 1 and modality in ("CT", "MR", "PT") else ""
        yield f"  - {{modality: [{quote_word(modality)}]{stack}}}  # {counts.total()} images, {len(counts)} series"
    if not series:
        yield f"  - {{modality: [{quote_word(UNDECIDED)}]}}  # UNDECIDED: the folder has no image"
