"""HNF(τ(D)) = HNF(D) for every composition τ of lossless rewrites, and ≠ where a fact is lost."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from isohop.engines.spark import spark_session
from isohop.graph.audit import Auditor
from isohop.graph.build import construct_graph, plan_schema
from tests.property.databases import Written, databases


@pytest.fixture
def session() -> Iterator[object]:
    with spark_session("sail") as opened:
        yield opened


def examples(count: int) -> settings:
    """A failing composition is shrunk by the audit itself, which knows what a smaller one is."""
    return settings(
        max_examples=count,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        phases=[Phase.generate],
    )


@pytest.mark.parametrize(("mapping", "count"), [(True, 15), (False, 7)])
def test_no_composition_of_rewrites_changes_the_graph(session, mapping, count):
    """With the schema file rewritten along, and with keys and the names of entities alone."""

    @examples(count)
    @given(database=databases(), seed=st.integers(0, 10**6))
    def holds(database: Written, seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            planned = plan_schema(database.write(Path(folder)))
            auditor = Auditor(planned, session, Path(folder) / "audit", mapping)
            found = auditor.start()
            equal = auditor.trial(found, random.Random(seed), 6)
            assert equal, (found.failure, found.error)

    holds()


def certificate(database: Written, session: object) -> str:
    with tempfile.TemporaryDirectory() as folder:
        planned = plan_schema(database.write(Path(folder)))
        return construct_graph(planned, Path(folder) / "graph", session).manifest.certificate


def certificates_by(engine: str) -> list[str]:
    """Of some databases, always the same."""
    found = []
    with spark_session(engine) as opened:

        @examples(2)
        @given(database=databases())
        def built(database: Written) -> None:
            found.append(certificate(database, opened))

        built()
    return found


@pytest.mark.spark
def test_spark_gives_the_certificates_that_sail_gives():
    """So that what holds of one engine's certificates holds of the other's."""
    found = certificates_by("spark")
    assert len(set(found)) > 1
    assert found == certificates_by("sail")


def test_a_fact_lost_or_invented_changes_the_certificate(session):
    @examples(15)
    @given(database=databases(), draw=st.randoms(use_true_random=False))
    def holds(database: Written, draw: random.Random) -> None:
        owner = draw.choice(list(database.entities))
        rows = database.rows[owner]
        assume(rows.num_rows)
        before = certificate(database, session)
        at = draw.randrange(rows.num_rows)
        values = [c for c in rows.column_names if c.startswith("v") and rows[c][at].is_valid]
        if values and draw.random() < 0.5:
            # One value forgotten.
            column = draw.choice(values)
            cells = rows[column].to_pylist()
            cells[at] = None
            index = rows.column_names.index(column)
            changed = rows.set_column(index, column, pa.array(cells, rows[column].type))
        else:
            # One entity more.
            added = {c: [None] for c in rows.column_names} | {"id": [77]}
            if "part" in added:
                added["part"] = ["k7"]
            changed = pa.concat_tables([rows, pa.table(added, rows.schema)])
        database.rows[owner] = changed
        assert certificate(database, session) != before

    holds()


def test_an_event_twice_or_with_another_is_another_graph(session):
    @examples(10)
    @given(database=databases(), draw=st.randoms(use_true_random=False))
    def holds(database: Written, draw: random.Random) -> None:
        visit = next(name for name in database.tables if name.endswith("visit"))
        rows = database.rows[visit]
        references = database.tables[visit]["references"]
        ends = [r["columns"][0] for r in references if r["table"] in database.entities]
        given = zip(*(rows[column].is_valid().to_pylist() for column in ends), strict=True)
        # An event that connects entities is one of two of them at least.
        telling = [i for i, row in enumerate(given) if sum(row) >= min(2, len(ends))]
        assume(telling)
        before = certificate(database, session)
        at = draw.choice(telling)
        # Lost, or told once more under a key of its own.
        kept = rows.filter(pa.array([i != at for i in range(rows.num_rows)]))
        again = rows.slice(at, 1).set_column(0, "id", pa.array([77], pa.int64()))
        database.rows[visit] = draw.choice([kept, pa.concat_tables([rows, again])])
        assert certificate(database, session) != before

    holds()
