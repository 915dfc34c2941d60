"""What explain tells of a plan, without an engine."""

from __future__ import annotations

import pytest

from isohop.hops.explain import explain

ENTITIES = "entities: {employee: {table: employee}}"
BOSS = "{columns: boss, table: employee, prefix: boss_}"
TEAM = "{columns: team, table: team}"
LEADERS = {
    "in the row": (
        f"{ENTITIES}\ntables: {{employee: {{key: id, references: [{BOSS}]}}}}",
        {"employee": "id boss"},
        1,
    ),
    "in a 1:1 part": (
        f"""
        {ENTITIES}
        tables:
          employee: {{key: id}}
          led: {{key: id, references: [{{columns: id, table: employee}}, {BOSS}]}}
        """,
        {"employee": "id", "led": "id boss"},
        2,
    ),
    "behind a lookup": (
        f"""
        {ENTITIES}
        tables:
          employee: {{key: id, references: [{TEAM}]}}
          team: {{key: id, surrogate: true, references: [{BOSS}]}}
        """,
        {"employee": "id team", "team": "id boss"},
        2,
    ),
    "in an event": (
        f"""
        {ENTITIES}
        tables:
          employee: {{key: id}}
          talk: {{references: [{{columns: who, table: employee}}, {BOSS}]}}
        """,
        {"employee": "id", "talk": "who boss"},
        2,
    ),
    "behind an event": (
        f"""
        {ENTITIES}
        tables:
          employee: {{key: id}}
          talk: {{references: [{{columns: who, table: employee}}, {TEAM}]}}
          team: {{key: id, surrogate: true, references: [{BOSS}]}}
        """,
        {"employee": "id", "talk": "who team", "team": "id boss"},
        3,
    ),
}


@pytest.mark.parametrize("where", LEADERS)
def test_two_of_one_entity_are_as_far_apart_as_the_references_between_their_rows(plan, where):
    schema, columns, before = LEADERS[where]
    (found,) = explain(plan(schema, columns)).distances
    assert (found.source, found.target) == ("employee", "employee")
    assert (found.before, found.after) == (before, 1)
