"""JSON files: an array of objects, or one object a line, as batches of texts."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from isohop.relational.as_of import KNOWN
from isohop.relational.landing import Landing, json_text
from isohop.relational.source import unreadable
from isohop.relational.text_files import NOT_UTF8, has_escapes, open_utf8, show_escapes
from isohop.relational.texts import TextTable

_READ_CHARACTERS = 4 << 20
_CHUNK_ROWS = 1 << 14
_LINES_OF_A_DESCRIPTION = 10_000
_LONGEST_LITERAL = len("-Infinity")
_SPACES = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_WRITTEN: dict[type, Callable[[Any], str]] = {
    str: str,
    bool: json_text,
    int: repr,
    float: repr,
    list: json_text,
    dict: json_text,
}


class JsonFile:
    """The keys of all objects are the columns; a key that an object lacks is NULL.

    A column of texts lands as dates or timestamps where all of them are, one of numbers as such;
    where values differ in kind, or are lists or objects, it lands as JSON text.
    """

    def __init__(self, path: Path):
        self.path = path

    def columns(self) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for rows in self._chunks():
            names.update(dict.fromkeys(chain.from_iterable(rows.objects)))
        if not names:
            raise unreadable(
                str(self.path),
                "no object has a key, so the table has no columns.",
                "Write it as CSV with a header, or as Parquet, where it may be empty.",
            )
        return tuple(names)

    def read(self, texts: TextTable, landing: Landing, block_bytes: int) -> None:
        for rows in self._chunks():
            if rows.rejected:
                reasons, lines, raw = zip(*rows.rejected, strict=True)
                landing.reject(reasons, lines, raw)
            columns = [[row.get(name) for row in rows.objects] for name in texts.columns]
            written = [
                pa.array([None if v is None else _WRITTEN[type(v)](v) for v in values], pa.string())
                for values in columns
            ]
            known = texts.judge(written) == KNOWN
            for name, values in zip(texts.columns, columns, strict=True):
                told = values if known.all() else compress(values, known)
                kinds = set(map(type, told)) - {type(None)}
                if kinds:
                    texts.restrict(name, _candidates(kinds))
            texts.add(written, np.array(rows.lines, np.int64))

    def _chunks(self) -> Iterator[_Rows]:
        with open_utf8(self.path) as stream:
            reader = io.TextIOWrapper(io.BufferedReader(stream), "utf-8", newline="\n")
            start = reader.read(_READ_CHARACTERS)
            while start.isspace() and (more := reader.read(_READ_CHARACTERS)):
                start += more
            split = _elements if start.lstrip().startswith("[") else _lines
            for parsed in split(start, reader, self.path):
                yield _Rows(parsed, stream.invalid)


class _Rows:
    """Some rows of a file: objects of valid texts, and those that are not."""

    def __init__(self, parsed: Sequence[tuple[int, str, Any]], may_have_escapes: bool):
        self.objects: list[dict[str, Any]] = []
        self.lines: list[int] = []
        self.rejected: list[tuple[str, int, str]] = []
        for line, raw, value in parsed:
            if type(value) is _Malformed:
                reason = value.reason
            elif may_have_escapes and has_escapes(raw):
                reason = NOT_UTF8
            elif type(value) is not dict:
                reason = "not a JSON object"
            elif _SURROGATE.search(raw) and not _is_valid(value):
                reason = "a text has half of a surrogate pair"
            else:
                self.objects.append(value)
                self.lines.append(line)
                continue
            self.rejected.append((reason, line, show_escapes(raw.strip())))


@dataclass(frozen=True)
class _Malformed:
    reason: str


def is_description(path: Path) -> bool:
    """Whether a file holds one object that is spread over lines, and so is no table. A line that is
    no object, where one follows, is a broken row, unless all is one object."""
    with open_utf8(path) as stream:
        reader = io.TextIOWrapper(io.BufferedReader(stream), "utf-8", newline="\n")
        lines = (line for line in reader if not line.isspace())
        first, second = next(lines, ""), next(lines, "")
        if not first.startswith("{") or not isinstance(_parse(first), _Malformed):
            return False
        if isinstance(_parse(second), dict):
            some = "".join([first, second, *islice(lines, _LINES_OF_A_DESCRIPTION)])
            return isinstance(_parse(some), dict)
        return True


def _lines(start: str, reader: TextIO, path: Path) -> Iterator[list[tuple[int, str, Any]]]:
    """One value a line, numbered from 1, blank lines included in the count."""
    lines = (start + reader.readline()).removesuffix("\n").split("\n")
    number = 0
    while lines:
        numbered = enumerate(lines, number + 1)
        yield [(n, line, _parse(line)) for n, line in numbered if line and not line.isspace()]
        number += len(lines)
        lines = reader.readlines(_READ_CHARACTERS)


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return _Malformed(f"not JSON: {error}")


def _elements(start: str, reader: TextIO, path: Path) -> Iterator[list[tuple[int, str, Any]]]:
    """The elements of an array, numbered from 1; only a part of the file is ever held."""
    decode = json.JSONDecoder().raw_decode
    text, at, ended, number = start, start.index("[") + 1, False, 0
    elements: list[tuple[int, str, Any]] = []
    while True:
        at = _past_spaces(text, at)
        if number == 0 and text[at : at + 1] == "]":
            mark = at
            break
        # An element counts once the ',' or ']' after it is seen; till then more is read.
        mark, wrong = len(text), ""
        try:
            value, end = decode(text, at)
            mark = _past_spaces(text, end)
            if mark < len(text) and text[mark] not in ",]":
                wrong = "',' or ']' is missing after it"
        except json.JSONDecodeError as error:
            if error.pos < len(text) - _LONGEST_LITERAL and "Unterminated" not in error.msg:
                wrong = error.msg
        except (ValueError, RecursionError) as error:
            wrong = str(error)
        if mark == len(text) and ended:
            wrong = wrong or "the file ends within it"
        if wrong:
            raise unreadable(
                str(path),
                f"malformed JSON at element {number + 1} of the array: {wrong}.",
                "Mend it, or write one object a line: then a broken line is left out alone.",
            )
        if mark == len(text):
            more = reader.read(max(_READ_CHARACTERS, len(text) - at))
            text, at, ended = text[at:] + more, 0, not more
            continue
        number += 1
        elements.append((number, text[at:end], value))
        at = mark + 1
        if text[mark] == "]":
            break
        if len(elements) == _CHUNK_ROWS:
            yield elements
            elements = []
    yield elements
    if (text[mark + 1 :] + reader.read(_READ_CHARACTERS)).strip():
        raise unreadable(str(path), "something follows the array.", "Take it out.")


def _past_spaces(text: str, at: int) -> int:
    match = _SPACES.match(text, at)
    return match.end() if match else at


def _candidates(kinds: set[type]) -> tuple[str, ...]:
    if kinds == {str}:
        return ("date", "timestamp")
    if kinds == {bool}:
        return ("boolean",)
    return ("integer", "number") if kinds <= {int, float} else ()


def _is_valid(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
