"""Documents: a node's attributes as one text, the same for every layout of the tables.

A document depends on logical names and values alone: fields come in the order of their names, the
elements of a list in the order of their words, and nothing of a table, a file or a row order is
left in it. It is made of two kinds of words:

- the *words of the value* of texts, textual keys, and categories of several words;
- *atoms*, one word each, for values that mean something only together with their attribute:
  ``dst=u`` for categories and booleans, ``built=1990s built=1994 built=1994+05`` for times, and
  numbers at one to four significant digits (1809 is ``born≈2e3 born≈18e2 born≈181e1 born≈1809e0``,
  what does not differ said once), so that near numbers share words and no bucket has to be learned.

Which columns take part:

- an attribute of kind ``identifier`` does not: it tells a node apart, and that is all it tells;
- bytes do not: they are no words;
- a key column does where it is text: a natural key (``city``) is often the only name a node has,
  and a part of a code can carry meaning (the last letters of a tail number name the airline).
  A number as a key is a counter and stays out, and so is a key of kind ``identifier``: of many
  codes the digits follow from what a node is (a catalogue's sections), and would give it away. A
  part that is another node's key stays out as what is shared does;
- an attribute that is shared does not: its value is the far end of an edge, and an edge that is
  held out must not come back in by the text;
- the label does not.

A missing value is the atom ``name=∅``. A node without any value has no document at all (null): an
encoder has a state of its own for that, since it is not the same as an empty text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import BaseModel, ConfigDict

from isohop.graph import Graph

Rendering = Literal["text", "category", "number", "time"]

MISSING = "∅"
SEPARATORS = r"[\pZ\pP\pC]+"
"""Between words. Symbols are words, or parts of them: emoji, currencies, the = and ≈ of an atom."""

FIELD_END = "\x1f"
"""Between the fields of a document: Unicode's unit separator, a separator of words too."""
_MARKS = "[=≈]"
"""Of atoms; in other words they are spaces."""
ATOM = rf"\S*{_MARKS}\S*"

_JOINT = "+"
_PUNCTUATION = "!\"#%&'()*,-./:;?@[\\]_{}"
_SIGNIFICANT_DIGITS = 4


class Field(BaseModel):
    """One column of a document and how its values become words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    rendering: Rendering


def document_fields(graph: Graph, node_type: str, label: str | None = None) -> tuple[Field, ...]:
    """The fields of a node type's documents, in the order of their names.

    ``label`` is ``entity.attribute``, kept out. Raises `IsohopError` for an unknown node type.
    """
    node = graph.node_type(node_type)
    schema = ds.dataset(graph.path / "nodes" / node.name, format="parquet").schema
    out = {
        edge.role
        for edge in graph.edge_types
        if edge.source == node_type and edge.target == f"{node_type}.{edge.role}"
    }
    if label is not None:
        out.add(label.removeprefix(f"{node_type}."))
    renderings: dict[str, Rendering] = {}
    for attribute in node.attributes:
        type_ = schema.field(attribute.name).type
        if attribute.kind != "identifier" and not pa.types.is_binary(_element(type_)):
            held = "category" if attribute.kind == "category" else _rendering(type_)
            renderings[attribute.name] = held
    for key in sorted(set(node.key) - set(node.identifiers)):
        if key not in renderings and _rendering(schema.field(key).type) == "text":
            renderings[key] = "text"
    return tuple(
        Field(name=name, rendering=renderings[name]) for name in sorted(renderings.keys() - out)
    )


def render_documents(table: pa.Table, fields: Sequence[Field], characters: int) -> pa.Array:
    """The documents of ``table``'s rows: Arrow large_string (rows,), null where missing.

    Each value is cut at ``characters`` Unicode characters before anything else is done with it. Of
    a document that is longer, the longest texts are cut until it is not; atoms stay whole, where
    there is room for them.
    """
    if not fields or table.num_rows == 0:
        return pa.nulls(table.num_rows, pa.large_string())
    parts = [_render(_whole(table.column(field.name)), field, characters) for field in fields]
    missing = pa.array(np.logical_and.reduce([part.is_null().to_numpy(False) for part in parts]))
    states = [
        pc.fill_null(part, f"{_words(field.name)}={MISSING}")
        for part, field in zip(parts, fields, strict=True)
    ]
    states = _fitted(states, [field.rendering == "text" for field in fields], characters)
    joined = pc.binary_join_element_wise(*states, pa.scalar(FIELD_END, pa.large_string()))
    cut = pc.utf8_slice_codeunits(joined, 0, characters)
    return pc.if_else(missing, pa.scalar(None, pa.large_string()), cut)


def _fitted(parts: Sequence[pa.Array], texts: Sequence[bool], characters: int) -> list[pa.Array]:
    """Each of the ``parts`` of every row, so that together they have room, as far as that is up to
    those that are ``texts``: all of a row at one level at most, which is lowered by an eighth."""
    room, level = characters - len(parts) + 1, characters
    rows = np.flatnonzero(_lengths(parts) > room)
    if not len(rows):
        return list(parts)
    cut = [part.take(pa.array(rows)) for part in parts]
    over = np.ones(len(rows), bool)
    while level and over.any():
        level = level * 7 // 8
        mask = pa.array(over)
        cut = [
            pc.if_else(mask, pc.utf8_slice_codeunits(part, 0, level), part) if text else part
            for part, text in zip(cut, texts, strict=True)
        ]
        over &= _lengths(cut) > room
    place = np.full(len(parts[0]), -1)
    place[rows] = np.arange(len(rows))
    taken = pa.array(place, mask=place < 0)
    return [pc.coalesce(some.take(taken), part) for some, part in zip(cut, parts, strict=True)]


def _lengths(parts: Sequence[pa.Array]) -> np.ndarray:
    """int64 (rows,): characters of all parts of a row."""
    return np.sum([pc.utf8_length(part).to_numpy() for part in parts], axis=0)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, however many texts it has."""
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())
    return column.combine_chunks()


def _rendering(held: pa.DataType) -> Rendering:
    """How a value of an Arrow type is rendered; a list's as its elements are."""
    held = _element(held)
    if pa.types.is_string(held) or pa.types.is_large_string(held):
        return "text"
    if pa.types.is_integer(held) or pa.types.is_floating(held) or pa.types.is_decimal(held):
        return "number"
    if pa.types.is_date(held) or pa.types.is_timestamp(held):
        return "time"
    return "category"


def _element(held: pa.DataType) -> pa.DataType:
    """What lists and dictionaries of a type hold; the type itself, if it is none of these."""
    if pa.types.is_list(held) or pa.types.is_large_list(held) or pa.types.is_dictionary(held):
        return _element(held.value_type)
    return held


def _render(column: pa.Array, field: Field, characters: int) -> pa.Array:
    """One field of every row as large_string; null where there is no value."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _render_lists(column, field, characters)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    name = _words(field.name)
    if field.rendering == "number" and _rendering(column.type) == "number":
        return _render_numbers(column, name)
    if field.rendering == "time" and _rendering(column.type) == "time":
        return _render_times(column, name)
    value = pc.utf8_slice_codeunits(column.cast(pa.large_string()), 0, characters)
    value = pc.utf8_trim_whitespace(value)
    value = pc.if_else(pc.equal(value, ""), pa.scalar(None, pa.large_string()), value)
    words = pc.replace_substring_regex(value, _MARKS, " ")
    if field.rendering == "text":
        return words
    joint = _joined(value)
    words = pc.if_else(pc.equal(joint, value), "", _concatenate(" ", words))
    return _concatenate(f"{name}=", joint, words)


def _joined(values: pa.Array) -> pa.Array:
    """Values as one word each, large_string. What is ASCII's punctuation stays told apart: + and -
    may be all that a category is."""
    coded = pc.dictionary_encode(values)
    words = coded.dictionary
    for sign in _PUNCTUATION:
        words = pc.replace_substring(words, sign, f"{_JOINT}{ord(sign):x}{_JOINT}")
    return pc.replace_substring_regex(words, SEPARATORS, _JOINT).take(coded.indices)


def _render_lists(column: pa.Array, field: Field, characters: int) -> pa.Array:
    """A list's elements one after another, in the order of their words; null for an empty list."""
    elements = _render(pc.list_flatten(column), field, characters)
    parents = pc.list_parent_indices(column)
    table = pa.table({"parent": parents, "element": elements})
    table = table.filter(pc.is_valid(table.column("element"))).sort_by(
        [("parent", "ascending"), ("element", "ascending")]
    )
    sizes = np.bincount(table.column("parent").to_numpy(), minlength=len(column))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    lists = pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), table.column("element").combine_chunks()
    )
    joined = pc.binary_join(lists, pa.scalar(" ", pa.large_string()))
    return pc.if_else(pa.array(sizes == 0), pa.scalar(None, pa.large_string()), joined)


def _render_numbers(column: pa.Array, name: str) -> pa.Array:
    """Each number at 1 to 4 significant digits, coarse to fine; NaN is missing."""
    value = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    finite = np.isfinite(value)
    size = np.abs(np.where(finite, value, 0.0))
    nonzero = size > 0
    magnitude = np.floor(np.log10(size, where=nonzero, out=np.zeros_like(size))).astype(np.int64)
    sign = np.where(value < 0, "−", "")
    words: list[pa.Array] = []
    finer: tuple[np.ndarray, np.ndarray] | None = None
    for digits in range(_SIGNIFICANT_DIGITS, 0, -1):
        exponent = magnitude - digits + 1
        # Two steps: a power of ten can leave the range of float64 where the quotient does not.
        half = exponent // 2
        mantissa = np.rint(size / 10.0**half / 10.0 ** (exponent - half)).astype(np.int64)
        for _ in range(_SIGNIFICANT_DIGITS):
            trailing = nonzero & (mantissa % 10 == 0)
            mantissa = np.where(trailing, mantissa // 10, mantissa)
            exponent = np.where(trailing, exponent + 1, exponent)
        exponent = np.where(nonzero, exponent, 0)
        word = _concatenate(f" {name}≈", sign, mantissa, "e", exponent)
        if finer is not None:
            same = (mantissa == finer[0]) & (exponent == finer[1])
            word = pc.if_else(pa.array(same), "", word)
        words.insert(0, pc.replace_substring(word, "-", "−"))
        finer = mantissa, exponent
    numbers = pc.utf8_trim(_concatenate(*words), " ")
    numbers = pc.if_else(pa.array(finite), numbers, _concatenate(f"{name}≈", sign, "∞"))
    return pc.if_else(pa.array(np.isnan(value)), pa.scalar(None, pa.large_string()), numbers)


def _render_times(column: pa.Array, name: str) -> pa.Array:
    """Decade, year and month of each time."""
    year = pc.year(column)
    decade = pc.multiply(pc.divide(year, 10), 10)
    month = _concatenate(year, "+", pc.utf8_lpad(pc.month(column).cast(pa.string()), 2, "0"))
    return _concatenate(f"{name}=", decade, f"s {name}=", year, f" {name}=", month)


def _concatenate(*parts: pa.Array | np.ndarray | str) -> pa.Array:
    """Element-wise concatenation; null where a part is null."""
    texts = [
        pa.scalar(part, pa.large_string())
        if isinstance(part, str)
        else (pa.array(part) if isinstance(part, np.ndarray) else part).cast(pa.large_string())
        for part in parts
    ]
    return pc.binary_join_element_wise(*texts, pa.scalar("", pa.large_string()))


def _words(name: str) -> str:
    """An attribute's name as a part of an atom."""
    return str(pc.replace_substring_regex(pa.scalar(name), SEPARATORS, _JOINT).as_py())
