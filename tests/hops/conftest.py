"""A plan from YAML text and column names: no files, no engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import yaml

from isohop.hops.plan import Plan, make_plan
from isohop.hops.schema_file import SchemaFile

MakePlan = Callable[[str, Mapping[str, str]], Plan]


@pytest.fixture
def plan() -> MakePlan:
    def make(text: str, columns: Mapping[str, str]) -> Plan:
        raw = {"database": "d", "source": {"path": "."}, **yaml.safe_load(text)}
        schema = SchemaFile.model_validate(raw)
        return make_plan(schema, {name: tuple(c.split()) for name, c in columns.items()})

    return make
