"""A schema file as text, one comment beside each line that somebody should look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from isohop.hops.schema_file import SchemaFile
from isohop.relational.database import Table

Notes = Mapping[tuple[str, ...], str]
"""Comments by place: ``("tables", "orders", "references", "customer_id")``."""


def schema_text(schema: SchemaFile, notes: Notes, heading: str = "") -> str:
    """YAML that `read_schema_file` reads back as ``schema``. Ends with a newline."""
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    lines += ["", f"database: {_flow(schema.database)}"] if lines else []
    source = schema.source.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    lines.append(f"source: {_flow(source)}")
    policies = schema.policies.model_dump(mode="json", exclude_defaults=True)
    if policies:
        lines.append(f"policies: {_flow(policies)}")
    lines += ["", "tables:"]
    for name, table in schema.tables.items():
        lines += _table(name, table, notes)
    lines += ["", "entities:"]
    for name, entity in schema.entities.items():
        told = _flow(entity.model_dump(mode="json", exclude_none=True))
        lines.append(_noted(f"  {_flow(name)}: {told}", notes.get(("entities", name))))
    if schema.attributes:
        lines += ["", "attributes:"]
    for name, spec in schema.attributes.items():
        told = _flow(spec.model_dump(mode="json", exclude_defaults=True))
        lines.append(_noted(f"  {_flow(name)}: {told}", notes.get(("attributes", name))))
    return "\n".join(lines) + "\n"


def _table(name: str, table: Table, notes: Notes) -> Iterator[str]:
    def note(*place: str) -> str | None:
        return notes.get(("tables", name, *place))

    written = table.model_dump(mode="json", exclude_defaults=True)
    written.pop("references", None)
    yield _noted(f"  {_flow(name)}:{'' if written or table.references else ' {}'}", note())
    for field in ("parts", "key", "surrogate", "unique", "time", "types"):
        if field in written:
            yield _noted(f"    {field}: {_flow(written[field])}", note(field))
    for field in ("columns", "determines"):
        if field in written:
            yield f"    {field}:"
        for entry, value in written.get(field, {}).items():
            yield _noted(f"      {_flow(entry)}: {_flow(value)}", note(field, entry))
    if table.references:
        yield "    references:"
    for reference in table.references or ():
        told = _flow(reference.model_dump(mode="json", exclude_defaults=True))
        yield _noted(f"      - {told}", note("references", ", ".join(reference.columns)))


class _OneLine(yaml.SafeDumper):
    """What fills several lines is told with its escapes."""


_OneLine.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, None if text.isprintable() else '"'
    ),
)


def _flow(value: Any) -> str:
    """One line of YAML."""
    text = yaml.dump(
        value,
        Dumper=_OneLine,
        default_flow_style=True,
        allow_unicode=True,
        width=2**31,
        sort_keys=False,
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _noted(line: str, note: str | None) -> str:
    return f"{line}  # {' '.join(note.split())}" if note else line
