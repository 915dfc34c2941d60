"""YAML files with a pydantic model behind them: every mistake found at once, each with its line.

The schema file and the pipeline file are both read here. YAML is read by its 1.2 core rules for
booleans (``no`` is a string: it may be Norway), a duplicate key is a mistake, and nothing in the
file can construct an object.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from isohop.errors import InvalidInput, Problem, did_you_mean

M = TypeVar("M", bound=BaseModel)
KeyPath = tuple[str | int, ...]


class StrictModel(BaseModel):
    """Base of all that is read from YAML: frozen, and an unknown key is a mistake. What is written
    below a field is its description in `schemas/contracts/`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )


class _Loader(yaml.SafeLoader):
    """SafeLoader without YAML 1.1's yes/no/on/off booleans and without implicit dates.

    ``twice``: by mapping, the keys that are written in it more than once, before others are merged
    into it."""

    def __init__(self, text: str):
        super().__init__(text)
        self.twice: dict[yaml.Node, set[str]] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        counts = Counter(str(key.value) for key, _ in node.value)
        self.twice[node] = {key for key, count in counts.items() if count > 1}
        return node


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool",
    re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    list("tTfF"),
)


@dataclass
class YamlFile(Generic[M]):
    """A file read into ``model``, with the line of every key path and the problems so far.

    ``model`` is None only when too much was wrong to go on. Call `raise_problems` when all checks
    have added theirs. ``instead``: as in `read_yaml`.
    """

    path: Path
    title: str
    model: M | None
    lines: Mapping[KeyPath, int]
    problems: list[Problem] = field(default_factory=list)
    instead: Mapping[str, str] = field(default_factory=dict)

    def where(self, *keys: str | int) -> str:
        """``schema.yaml:12 tables.customer.key``: the nearest known line of a key path. Of what
        stands in no line ``--set distill.steps=0``."""
        for place, value in self.instead.items():
            if keys[: place.count(".") + 1] == tuple(place.split(".")):
                return f"--set {place}={value}"
        line = next(
            (self.lines[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in self.lines),
            None,
        )
        return f"{self.path.name}{f':{line}' if line else ''} {key_path(keys)}".rstrip()

    def add(self, keys: tuple[str | int, ...], what: str, hint: str = "") -> None:
        self.problems.append(Problem(*map(_without_secrets, (self.where(*keys), what, hint))))

    def raise_problems(self) -> None:
        """Raise `InvalidInput` with everything found, if anything was."""
        if self.problems:
            raise InvalidInput(self.title, list(dict.fromkeys(self.problems)))


def _without_secrets(text: str) -> str:
    """A URL may stand where none belongs, and what does not belong is told."""
    return re.sub(r"(?<=://)[^\s'\"]*@|(?<=password=)[^\s'\"&]*", "…", text)


def key_path(keys: tuple[str | int, ...]) -> str:
    """``("tables", "a", "references", 0)`` as ``tables.a.references[0]``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f"{'.' if text else ''}{key}"
    return text


def read_yaml(
    path: str | Path, model: type[M], title: str, instead: Mapping[str, str] | None = None
) -> YamlFile[M]:
    """Read ``path`` as ``model``. Raises `InvalidInput` when it is missing or is no YAML at all.

    ``instead``: texts in place of what the file says, by the place of a key (``publish.path``), as
    `--set` has them; ``null`` is YAML's.

    Mistakes of structure are gathered, then mended as far as is obvious (an unknown key that is
    near a known one is taken for it, other wrong entries are left out), so that later checks can
    still tell what else is wrong.
    """
    path = Path(path)
    heading = f"{title} {path}"
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        near = did_you_mean(path.name, (p.name for p in path.parent.glob("*.y*ml")))
        raise InvalidInput(heading, [Problem(str(path), "there is no such file.", near)]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            heading, [Problem(str(path), f"cannot be read as UTF-8 text: {error}.")]
        ) from error
    lines: dict[KeyPath, int] = {}
    file: YamlFile[M] = YamlFile(path, heading, None, lines)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            raw = _construct(loader, node, (), file, lines) if node is not None else None
        finally:
            loader.dispose()
    # What PyYAML raises for values that are not what their tags say is any of these.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path.name}:{mark.line + 1}:{mark.column + 1}" if mark else path.name
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InvalidInput(heading, [Problem(place, f"is not valid YAML: {what}.")]) from error
    if not isinstance(raw, dict):
        raise InvalidInput(
            heading, [Problem(path.name, "must be a mapping of keys to values, and is not.")]
        )
    file.instead = instead or {}
    for place, value in file.instead.items():
        _put(raw, place.split("."), None if value == "null" else value)
    file.model = _validate(raw, model, file)
    return file


def _put(raw: dict[str, Any], keys: list[str], value: str | None) -> None:
    for key in keys[:-1]:
        inside = raw.get(key)
        if not isinstance(inside, dict):
            inside = raw[key] = {}
        raw = inside
    raw[keys[-1]] = value


def _construct(
    loader: _Loader, node: yaml.Node, at: KeyPath, file: YamlFile[M], lines: dict[KeyPath, int]
) -> Any:
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        # What is merged from elsewhere (<<) comes first, and a key of its own replaces it.
        loader.flatten_mapping(node)
        node.value = list({str(pair[0].value): pair for pair in node.value}.values())
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                file.add(at, "a key must be plain text.")
                continue
            key = str(key_node.value)
            if "\0" in key:
                file.add(at, "the letter \\0 cannot be in a key.")
                continue
            lines[(*at, key)] = key_node.start_mark.line + 1
            if key in loader.twice[node]:
                file.add((*at, key), "this key is written twice.", "Keep one of the two.")
            mapping[key] = _construct(loader, value_node, (*at, key), file, lines)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(loader, item, (*at, index), file, lines)
            for index, item in enumerate(node.value)
        ]
    if node.tag.startswith("tag:yaml.org,2002:"):
        found = loader.construct_object(node, deep=True)
        if isinstance(found, str) and "\0" in found:
            file.add(at, "the letter \\0 cannot be in a text here.")
            return None
        return found
    file.add(at, f"the tag {node.tag} is not allowed here.")
    return None


def _validate(raw: dict[str, Any], model: type[M], file: YamlFile[M]) -> M | None:
    raw = deepcopy(raw)
    left_out: set[KeyPath] = set()
    for _ in range(20):
        try:
            return model.model_validate(raw)
        except ValidationError as error:
            for mistake in error.errors():
                _report_and_mend(raw, mistake, model, file, left_out)
    return None


def _report_and_mend(
    raw: dict[str, Any],
    mistake: Any,
    model: type[BaseModel],
    file: YamlFile[M],
    left_out: set[KeyPath],
) -> None:
    """``left_out``: the keys whose values were wrong, which are missing now."""
    keys = _in_file(raw, mistake["loc"])
    kind = mistake["type"]
    parent = _at(raw, keys[:-1]) if keys else raw
    if kind == "extra_forbidden":
        known = _known_keys(model, keys[:-1])
        hint = did_you_mean(str(keys[-1]), known)
        file.add(keys, f"unknown key '{keys[-1]}'.", hint)
        value = parent.pop(str(keys[-1])) if isinstance(parent, dict) else None
        if hint.startswith("Did you mean"):
            meant = hint.split("'")[1]
            if isinstance(parent, dict):
                parent.setdefault(meant, value)
        return
    if kind == "missing":
        if keys not in left_out:
            file.add(keys[:-1], f"the key '{mistake['loc'][-1]}' is missing.")
    else:
        message = str(mistake["msg"]).removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        got = mistake.get("input")
        shown = "" if isinstance(got, dict | list) else f" Got {got!r}."
        file.add(keys, f"{message}.{shown}".replace("..", "."))
    if isinstance(parent, dict) and keys:
        left_out.add(keys)
        parent.pop(str(keys[-1]), None)
    elif isinstance(parent, list) and keys and isinstance(keys[-1], int) and keys[-1] < len(parent):
        del parent[keys[-1]]


def _in_file(raw: Any, loc: tuple[str | int, ...]) -> KeyPath:
    """Pydantic's location without the parts that name a branch of a union."""
    keys: list[str | int] = []
    here = raw
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(here, dict) and (part in here or last):
            keys.append(part)
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and (part < len(here) or last):
            keys.append(part)
            here = here[part] if part < len(here) else None
    return tuple(keys)


def _at(raw: Any, keys: KeyPath) -> Any:
    for key in keys:
        raw = raw[key]
    return raw


def _known_keys(model: type[BaseModel], keys: KeyPath) -> list[str]:
    """The keys that the model knows at a key path, for a suggestion."""
    here: Any = model
    for key in keys:
        here = _step(here, key)
    found = _model_in(here)
    fields = found.model_fields if found is not None else {}
    return [info.alias or name for name, info in fields.items()]


def _step(annotation: Any, key: str | int) -> Any:
    """The annotation one key further in: a model's field, a mapping's value, a list's item."""
    model = annotation if isinstance(annotation, type) else None
    if model is not None and issubclass(model, BaseModel):
        fields = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
        return fields.get(str(key))
    arguments: tuple[Any, ...] = getattr(annotation, "__args__", ())
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping | list | tuple):
        return arguments[-1] if issubclass(origin, Mapping) else arguments[0]
    steps = (_step(argument, key) for argument in arguments)
    return next((step for step in steps if step is not None), None)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that ``annotation`` is, or ``X`` of ``X | None``."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
