"""Tables whose values are all texts: which types they have, and how they are read.

CSV has only texts, and JSON is put as texts: a type holds for a column when every one of its values
has it, and that is known at the end. So rows are spilled as texts while each column's candidates
narrow, and then read with the first that is left: boolean, integer, number, date, timestamp, else
string. The rows' order and where batches end make no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isohop.relational.as_of import KNOWN, LATER, UNREADABLE, UNTOLD, Known
from isohop.relational.landing import EXACT, Landing, Misfits, Notes, refused

TEXT_TYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}
"""The types that texts can have, and what they land as."""

CANDIDATES: tuple[str, ...] = ("boolean", "integer", "number", "date", "timestamp")
"""What is recognised, first come first."""

_LINE = "line"
_SHOWN = 60
_HEAD = 64
"""So many values are looked at first: most candidates are refuted by them."""

# What a column of unstated type has to look like. '02134' is a postal code, '+49' a dialling code;
# whole numbers of more than 15 digits are identifiers, which a double would not hold exactly.
_INTEGER = r"^(0|-?[1-9][0-9]{0,18})$"
_EXACT = 10**15
_NON_FINITE = r"^[+-]?(?i:nan|inf|infinity)$"
_NUMBER = (
    r"^-?((0|[1-9][0-9]{0,14})|(0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?[eE][+-]?[0-9]+)$"
    rf"|{_NON_FINITE}"
)
_BOOLEANS = ("true", "false", "True", "False", "TRUE", "FALSE")

# What a value of stated type may look like besides.
_LOOSE_INTEGER = r"^[+-]?[0-9]+(\.0*)?$"
_DECIMAL = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)"
_POWER = r"[eE][+-]?[0-9]+"
_LOOSE_NUMBER = rf"^{_DECIMAL}({_POWER})?$|{_NON_FINITE}"
_POWERS = rf"^{_DECIMAL}{_POWER}$|{_NON_FINITE}"
"""Whole numbers as programs write them that keep them as doubles."""
_TRUE = ("true", "t", "yes", "y", "1")
_FALSE = ("false", "f", "no", "n", "0")
_MIDNIGHT = r"[T ]00:00(:00(\.0+)?)?$"

_DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_TIME = r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?$"
"""What may be a time; whether it is one, a cast tells."""
_ZONE = r"[T ].*(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_BEYOND_MICROSECONDS = r"(\.[0-9]{6})[0-9]+"


def read_texts(texts: pa.Array, type: str, column: str, notes: Notes) -> pa.Array:
    """Texts of a stated type as its Arrow type.

    Loose where no meaning is in doubt: spaces around, leading zeros, '5.0' and '1e+05' for an
    integer, yes and no for a boolean, midnight in a date. NaN and infinity are read as NULL, with a
    note. Raises `pa.ArrowInvalid` when one of the texts is not of that type.
    """
    if type == "string":
        return texts
    texts = pc.utf8_trim_whitespace(texts)
    if type == "integer":
        return _integers(texts, column, notes)
    if type == "number":
        _require(pc.match_substring_regex(texts, _LOOSE_NUMBER))
    elif type == "boolean":
        texts = pc.utf8_lower(texts)
        _require(pc.is_in(texts, pa.array([*_TRUE, *_FALSE, None])))
        return pc.if_else(texts.is_null(), None, pc.is_in(texts, pa.array(_TRUE)))
    elif type == "date":
        texts = pc.replace_substring_regex(texts, _MIDNIGHT, "")
    return _cast(texts, type, column, notes)


def read_times(texts: pa.Array, stated: str | None) -> tuple[pa.Array, pa.Array]:
    """Texts that say when, each for itself, of a type, ``stated`` or found: timestamp[us] in UTC,
    NULL where one is no time; and bool, which of them name a day alone."""

    def convert(part: pa.Array) -> pa.Array:
        if stated is None:
            return _timestamps(part)[0]
        return read_texts(part, stated, "", Notes()).cast(pa.timestamp("us"))

    texts = pc.if_else(pc.match_substring_regex(texts, _TIME), texts, None)
    times = convert(without(texts, refused(texts, convert)))
    if stated == "date":
        return times, pa.scalar(True)
    return times, pc.match_substring_regex(pc.utf8_trim_whitespace(texts), _DAY)


def misfits(texts: pa.Array, type: str, column: str) -> tuple[np.ndarray, list[str]]:
    """Rows whose text is not of the stated type, int64 ascending, and why."""
    rows = refused(texts, lambda part: read_texts(part, type, column, Notes()))
    shown = texts.take(pa.array(rows)).to_pylist()
    return rows, [misfit(column, text, type) for text in shown]


def misfit(column: str, text: str, type: str) -> str:
    """Why a row is quarantined: "column x: 'abc' is not an integer"."""
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return f"column {column}: '{shown}' is not {'an' if type == 'integer' else 'a'} {type}"


class TextTable:
    """Rows of texts on their way to a `Landing`: added within its ``with`` block, landed after it.

    ``stated`` has the types that the schema file states; the other columns' are found, among
    ``CANDIDATES``, as the rows pass. ``known``: where only rows that were known as of a moment may
    tell of types, and land.
    """

    def __init__(
        self,
        columns: Sequence[str],
        stated: Mapping[str, str],
        scratch: Path,
        known: Known | None = None,
    ):
        self.columns = tuple(columns)
        self._stated = dict(stated)
        # A column that is no time says nothing; that is told once types are known.
        timed = known is not None and stated.get(known.column) in (None, "date", "timestamp")
        self._known = known if timed else None
        self._says = False
        """Whether any row says when it became known."""
        self._candidates = {name: CANDIDATES for name in columns if name not in stated}
        self._has_values: set[str] = set()
        self._has_numbers: set[str] = set()
        self._scratch = scratch
        # By position, as a column may be named like the one for lines.
        names = [f"c{index}" for index in range(len(columns))]
        self._schema = pa.schema([*((name, pa.string()) for name in names), (_LINE, pa.int64())])
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._spill = pa.ipc.new_file(str(scratch), self._schema, options=options)

    def __enter__(self) -> TextTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._spill.close()

    def restrict(self, column: str, candidates: Sequence[str]) -> None:
        """Leave only these candidates to a column of unstated type."""
        if column in self._candidates:
            left = tuple(name for name in self._candidates[column] if name in candidates)
            self._candidates[column] = left

    def judge(self, texts: Sequence[pa.Array]) -> np.ndarray:
        """Which of these rows were known: `isohop.relational.as_of`, int8 (rows,)."""
        if self._known is None:
            return np.full(len(texts[0]), KNOWN, np.int8)
        name = self._known.column
        given, stated = texts[self.columns.index(name)], self._stated.get(name)
        times, days = read_times(given, stated)
        judged = self._known.judge(times, days)
        if stated is not None:
            unread = pc.and_(times.is_null(), given.is_valid())
            judged[unread.to_numpy(zero_copy_only=False)] = UNREADABLE
        return judged

    def add(self, texts: Sequence[pa.Array], lines: np.ndarray) -> None:
        """Rows: one string array a column, valid UTF-8; ``lines`` int64 (rows,)."""
        judged = self.judge(texts)
        known = judged == KNOWN
        told = texts if known.all() else [column.filter(pa.array(known)) for column in texts]
        self._says = self._says or bool((judged != UNTOLD).any())
        for name, column in zip(self.columns, told, strict=True):
            if name in self._candidates:
                self._narrow(name, column.drop_null())
        arrays = [*texts, pa.array(lines, pa.int64())]
        self._spill.write_batch(pa.record_batch(arrays, schema=self._schema))

    def types(self) -> dict[str, str]:
        """The type of each column, as far as rows have been added."""
        found = {}
        for name in self.columns:
            candidates: tuple[str, ...] = self._candidates.get(name, ())
            if name not in self._has_values:
                candidates = ()
            elif name not in self._has_numbers:  # 'Nan' and 'Inf' alone are names
                candidates = tuple(type for type in candidates if type != "number")
            found[name] = self._stated.get(name, candidates[0] if candidates else "string")
        return found

    def schema(self) -> pa.Schema:
        return pa.schema([(name, TEXT_TYPES[type]) for name, type in self.types().items()])

    def land(self, landing: Landing) -> None:
        """Cast what was added, batch by batch; the rows that do not fit are rejected."""
        types = self.types()
        for texts, lines in self._known_batches(landing):
            wrong = Misfits()
            columns = []
            for name, column in zip(self.columns, texts.columns, strict=True):
                type = types[name]
                if name not in self._stated:
                    columns.append(_cast(column, type, name, landing.notes))
                    continue
                try:
                    columns.append(read_texts(column, type, name, landing.notes))
                except pa.ArrowInvalid:
                    rows, reasons = misfits(column, type, name)
                    wrong.add(rows, reasons)
                    column = without(column, rows)
                    columns.append(read_texts(column, type, name, landing.notes))
            batch = pa.record_batch(columns, schema=landing.schema)
            landing.sift(batch, wrong, lines, texts)

    def _known_batches(self, landing: Landing) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """Without rows that were not known, which are counted."""
        for texts, lines in self._batches():
            judged = self.judge(texts.columns)
            if self._known is not None and not self._says:
                # Whatever it holds, it is no time: its rows land, and their type tells.
                column = texts.column(self.columns.index(self._known.column))
                judged[column.is_valid().to_numpy(zero_copy_only=False)] = KNOWN
            landing.later += int((judged == LATER).sum())
            landing.untold += int((judged == UNTOLD).sum())
            kept = (judged == KNOWN) | (judged == UNREADABLE)
            yield (texts, lines) if kept.all() else (texts.filter(pa.array(kept)), lines[kept])

    def _batches(self) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        with pa.memory_map(str(self._scratch)) as stream:
            reader = pa.ipc.open_file(stream)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                texts = pa.record_batch(batch.columns[:-1], names=list(self.columns))
                yield texts, batch.column(_LINE).to_numpy()

    def _narrow(self, name: str, values: pa.Array) -> None:
        candidates = self._candidates[name]
        if not len(values):
            return
        self._has_values.add(name)
        for part in (values.slice(0, _HEAD), values):
            if candidates:
                candidates = tuple(
                    type for type in candidates if type in _fitting(part, candidates)
                )
        self._candidates[name] = candidates
        if "number" in candidates and name not in self._has_numbers:
            numbers = values.cast(pa.float64())
            if pc.any(pc.is_finite(numbers)).as_py():
                self._has_numbers.add(name)


def _fitting(texts: pa.Array, candidates: Sequence[str]) -> set[str]:
    """Those of ``candidates`` that every text has; ``texts`` has no NULL."""
    fitting = set()
    if "boolean" in candidates and _all(pc.is_in(texts, pa.array(_BOOLEANS))):
        fitting.add("boolean")
    integers = None
    if "integer" in candidates and _all(pc.match_substring_regex(texts, _INTEGER)):
        integers = _cast_or_none(texts, pa.int64())
        if integers is not None:
            fitting.add("integer")
    if "number" in candidates:
        if integers is not None:
            extremes = pc.min_max(integers)
            if extremes["min"].as_py() > -_EXACT and extremes["max"].as_py() < _EXACT:
                fitting.add("number")
        elif _all(pc.match_substring_regex(texts, _NUMBER)):
            fitting.add("number")
    if "date" in candidates and _cast_or_none(texts, pa.date32()) is not None:
        fitting.add("date")
    if "timestamp" in candidates:
        try:
            _timestamps(texts)
            fitting.add("timestamp")
        except pa.ArrowInvalid:
            pass  # it is no timestamp, which is what was asked
    return fitting


def _integers(texts: pa.Array, column: str, notes: Notes) -> pa.Array:
    doubles = pc.fill_null(pc.match_substring_regex(texts, _POWERS), False)
    plain = pc.if_else(doubles, None, texts)
    _require(pc.match_substring_regex(plain, _LOOSE_INTEGER))
    found = pc.replace_substring_regex(plain, r"^\+|\.0*$", "").cast(pa.int64())
    if not pc.any(doubles).as_py():
        return found
    read = notes.non_finite(column, pc.if_else(doubles, texts, None).cast(pa.float64()))
    _require(pc.and_(pc.equal(pc.floor(read), read), pc.less(pc.abs(read), EXACT)))
    return pc.coalesce(found, read.cast(pa.int64()))


def _cast(texts: pa.Array, type: str, column: str, notes: Notes) -> pa.Array:
    if type == "timestamp":
        stamps, lost = _timestamps(texts)
        notes.count(column, "cut to microseconds, with digits lost", lost)
        return stamps
    values = texts.cast(TEXT_TYPES[type])
    return notes.non_finite(column, values) if type == "number" else values


def _timestamps(texts: pa.Array) -> tuple[pa.Array, int]:
    """ISO 8601 texts in UTC, where they name a time zone, and how many lost digits."""
    zoned = pc.fill_null(pc.match_substring_regex(texts, _ZONE), False)
    lost = 0
    if pc.any(pc.match_substring_regex(texts, _BEYOND_MICROSECONDS)).as_py():
        digits = pc.match_substring_regex(texts, _BEYOND_MICROSECONDS.replace("+", "*[1-9]"))
        lost = pc.sum(digits).as_py() or 0
        texts = pc.replace_substring_regex(texts, _BEYOND_MICROSECONDS, r"\1")
    naive = pc.if_else(zoned, None, texts).cast(pa.timestamp("us"))
    if not pc.any(zoned).as_py():
        return naive, lost
    utc = pc.if_else(zoned, texts, None).cast(pa.timestamp("us", "UTC"))
    return pc.coalesce(utc.cast(pa.timestamp("us")), naive), lost


def _cast_or_none(texts: pa.Array, type: pa.DataType) -> pa.Array | None:
    try:
        return texts.cast(type)
    except pa.ArrowInvalid:
        return None


def _require(fits: pa.BooleanArray) -> None:
    if not _all(fits):
        raise pa.ArrowInvalid("a text is not of the stated type")


def _all(fits: pa.BooleanArray) -> bool:
    return bool(pc.all(fits).as_py() is not False)


def without(values: pa.Array, rows: np.ndarray) -> pa.Array:
    """``values`` with NULL in these rows, int64."""
    mask = np.zeros(len(values), bool)
    mask[rows] = True
    return pc.if_else(pa.array(mask), None, values)
