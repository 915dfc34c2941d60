"""Damage to a file, as hypothesis draws it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isohop.errors import IsohopError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@dataclass(frozen=True)
class Damage:
    """``bytes``: in place of the file's; else of a JSON file the value at one place is another;
    else a part of the text is cut out and something put in."""

    whole: bytes | None
    value: Any
    at: float
    length: int
    text: bytes

    def of(self, content: bytes) -> bytes:
        if self.whole is not None:
            return self.whole
        if self.length == 0 and content.startswith(b"{"):
            about = json.loads(content)
            places = list(_places(about))
            parent, key = places[int(self.at * len(places)) % len(places)]
            parent[key] = self.value
            return json.dumps(about).encode()
        start = int(self.at * len(content))
        return content[:start] + self.text + content[start + self.length :]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


damages = st.builds(
    Damage,
    whole=st.none() | st.none() | st.none() | st.binary(max_size=40),
    value=json_values,
    at=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 30),
    text=st.binary(max_size=12) | st.sampled_from([b"&a *a", b"!!python/object:os.system", b"{{"]),
)


def damage_is_told(file: Path, read: Callable[[], object], times: int) -> None:
    """Whatever was done to a file, to read it works or ends in an error of ours."""
    whole = file.read_bytes()

    @settings(max_examples=times, suppress_health_check=list(HealthCheck))
    @given(damages)
    def damaged(damage: Damage) -> None:
        file.write_bytes(damage.of(whole))
        with suppress(IsohopError):
            read()

    damaged()
