"""Names for a schema that nobody wrote: whatever the tables, they can be planned."""

from __future__ import annotations

import yaml

from isohop.hops.naming import with_names
from isohop.hops.plan import make_plan
from isohop.hops.schema_file import SchemaFile


def named(text: str, columns: dict[str, str]) -> SchemaFile:
    raw = {"database": "d", "source": {"path": "."}, **yaml.safe_load(text)}
    held = {name: tuple(c.split()) for name, c in columns.items()}
    schema = with_names(SchemaFile.model_validate(raw), held)
    make_plan(schema, held)  # raises where two things still share a name
    return schema


def prefixes(schema: SchemaFile, table: str) -> list[str]:
    return [reference.prefix for reference in schema.tables[table].references or ()]


def test_roles_come_from_the_columns_that_refer():
    schema = named(
        """
        entities: {airport: {table: airport}}
        tables:
          airport: {key: id}
          flight:
            references:
              - {columns: origin_airport_id, table: airport}
              - {columns: dest, table: airport}
        """,
        {"airport": "id name", "flight": "origin_airport_id dest delay"},
    )
    assert prefixes(schema, "flight") == ["origin_", "dest_"]


def test_a_column_called_as_the_key_that_it_refers_to_says_no_role():
    """However short the key's name is; where one table is referred to twice, the other has one."""
    schema = named(
        """
        entities: {customer: {table: customer}, product: {table: product}}
        tables:
          customer: {key: cid}
          product: {key: sku}
          orders:
            references:
              - {columns: cid, table: customer}
              - {columns: SKU, table: product}
              - {columns: gift_sku, table: product}
        """,
        {"customer": "cid name", "product": "sku name", "orders": "cid SKU gift_sku day"},
    )
    assert prefixes(schema, "orders") == ["", "", "gift_sku_"]


def test_one_lookup_reached_by_two_ways_is_told_apart():
    schema = named(
        """
        entities: {person: {table: person}}
        tables:
          person: {key: id, references: [{columns: a, table: home}, {columns: b, table: work}]}
          home: {key: id, surrogate: true, references: [{columns: c, table: country}]}
          work: {key: id, surrogate: true, references: [{columns: c, table: country}]}
          country: {key: id, surrogate: true}
        """,
        {
            "person": "id a b name",
            "home": "id c street",
            "work": "id c floor",
            "country": "id name",
        },
    )
    assert "name" not in (schema.tables["person"].columns or {})
    assert len(set(prefixes(schema, "person"))) == 2 or prefixes(schema, "home") != prefixes(
        schema, "work"
    )


def test_parts_of_one_table_with_equal_columns_are_told_apart():
    part = "{key: id, references: [{columns: id, table: shop}, {columns: m, table: person}]}"
    named(
        f"""
        entities: {{person: {{table: person}}, shop: {{table: shop}}}}
        tables: {{person: {{key: id}}, shop: {{key: id}}, a: {part}, b: {part}, c: {part}}}
        """,
        {"person": "id", "shop": "id", "a": "id m x", "b": "id m x", "c": "id m x"},
    )


def test_names_that_the_datasets_need_are_given_away():
    schema = named(
        """
        entities: {page: {table: page}}
        tables:
          page: {key: source}
          link: {references: [{columns: src, table: page}, {columns: dst, table: page}]}
        """,
        {"page": "source node_id Degree a.b", "link": "src dst count weight"},
    )
    assert schema.tables["page"].columns["source"] != "source"
    assert schema.tables["link"].columns["count"] == "link_count"


def test_what_a_person_wrote_stays():
    text = """
        entities: {person: {table: person}}
        tables:
          person: {key: id, references: [{columns: city_id, table: city, prefix: at_}]}
          city: {key: id, surrogate: true, columns: {name: town}}
        """
    schema = named(text, {"person": "id city_id name", "city": "id name"})
    assert prefixes(schema, "person") == ["at_"]
    assert schema.tables["city"].columns == {"name": "town"}


def test_a_natural_key_of_several_columns_in_two_roles():
    schema = named(
        """
        entities: {film: {table: film}}
        tables:
          film:
            key: id
            references: [{columns: [a, b], table: speech}, {columns: [c, d], table: speech}]
          speech: {key: [name, since]}
        """,
        {"film": "id a b c d", "speech": "name since family"},
    )
    assert len(set(prefixes(schema, "film"))) == 2
