"""What each table and column becomes: properties of the normal form, without an engine."""

from __future__ import annotations

import pytest

from isohop.errors import InvalidInput
from isohop.hops.plan import Plan


def functional(plan: Plan) -> set[tuple[str, str, str]]:
    return {(edge.source, edge.role, edge.target) for edge in plan.functional}


def pairs(plan: Plan) -> set[tuple[str, str, str]]:
    return {(a.entity, role, b.entity) for e in plan.events for role, a, b in e.pairs}


def attributes(plan: Plan, node: str) -> set[str]:
    return set(plan.nodes[node].attributes)


SHOP = """
entities: {customer: {table: customer}}
attributes: {customer.city: {share: true}, customer.country: {share: true}}
"""
CITY = "city: {key: id, surrogate: true, columns: {name: city}"
COUNTRY = "country: {key: id, surrogate: true, columns: {name: country}}"
FOUR_SCHEMAS = {
    "chain": (
        f"""
        tables:
          customer: {{key: id, references: [{{columns: city_id, table: city}}]}}
          {CITY}, references: [{{columns: country_id, table: country}}]}}
          {COUNTRY}
        """,
        {"customer": "id name city_id", "city": "id name country_id", "country": "id name"},
    ),
    "star": (
        f"""
        tables:
          customer:
            key: id
            references: [{{columns: city_id, table: city}}, {{columns: country_id, table: country}}]
          {CITY}}}
          {COUNTRY}
        """,
        {"customer": "id name city_id country_id", "city": "id name", "country": "id name"},
    ),
    "flat": ("tables: {customer: {key: id}}", {"customer": "id name city country"}),
    "junction": (
        f"""
        tables:
          customer: {{key: id}}
          lives_in:
            key: customer_id
            references:
              - {{columns: customer_id, table: customer}}
              - {{columns: city_id, table: city}}
          {CITY}, references: [{{columns: country_id, table: country}}]}}
          {COUNTRY}
        """,
        {
            "customer": "id name",
            "lives_in": "customer_id city_id",
            "city": "id name country_id",
            "country": "id name",
        },
    ),
}


@pytest.mark.parametrize("schema", FOUR_SCHEMAS)
def test_what_an_entity_determines_is_one_hop_away_in_every_schema(plan, schema):
    text, columns = FOUR_SCHEMAS[schema]
    import textwrap

    made = plan(SHOP + textwrap.dedent(text), columns)
    assert functional(made) == {
        ("customer", "city", "customer.city"),
        ("customer", "country", "customer.country"),
    }
    assert attributes(made, "customer") == {"name"}
    assert pairs(made) == set()


def test_an_event_of_two_is_an_edge_and_keeps_its_attributes(plan):
    made = plan(
        """
        tables:
          a: {key: id}
          b: {key: id}
          buys: {references: [{columns: a, table: a}, {columns: b, table: b}]}
        entities: {a: {table: a}, b: {table: b}}
        """,
        {"a": "id", "b": "id", "buys": "a b price"},
    )
    assert pairs(made) == {("a", "buys", "b")}
    assert set(made.events[0].attributes) == {"price"}


def test_an_event_of_three_is_an_edge_for_each_pair(plan):
    made = plan(
        """
        tables:
          a: {key: id}
          b: {key: id}
          c: {key: id}
          e: {references: [{columns: a, table: a}, {columns: b, table: b}, {columns: c, table: c}]}
        entities: {a: {table: a}, b: {table: b}, c: {table: c}}
        """,
        {"a": "id", "b": "id", "c": "id", "e": "a b c"},
    )
    assert pairs(made) == {("a", "e", "b"), ("a", "e", "c"), ("b", "e", "c")}


def test_two_roles_to_one_entity_are_told_apart_by_prefix(plan):
    text = """
        tables:
          airport: {{key: code}}
          flight:
            references:
              - {{columns: origin, table: airport{0}}}
              - {{columns: dest, table: airport{1}}}
        entities: {{airport: {{table: airport}}}}
        """
    columns = {"airport": "code", "flight": "origin dest"}
    made = plan(text.format(", prefix: origin_", ", prefix: dest_"), columns)
    assert pairs(made) == {("airport", "flight.dest.origin", "airport")}
    with pytest.raises(InvalidInput, match="takes part twice in the role 'airport'"):
        plan(text.format("", ""), columns)


@pytest.mark.parametrize("target", ["city", "person"])
def test_two_roles_of_what_an_entity_determines_are_told_apart_by_prefix(plan, target):
    text = f"""
        tables:
          city: {{{{key: id}}}}
          person:
            key: id
            references:
              - {{{{columns: x, table: {target}{{0}}}}}}
              - {{{{columns: y, table: {target}{{1}}}}}}
        entities: {{{{city: {{{{table: city}}}}, person: {{{{table: person}}}}}}}}
        """
    columns = {"city": "id", "person": "id x y"}
    made = plan(text.format(", prefix: x_", ", prefix: y_"), columns)
    assert functional(made) == {("person", "x", target), ("person", "y", target)}
    with pytest.raises(InvalidInput, match=f"two of '{target}' in the role '{target}'"):
        plan(text.format("", ""), columns)


def test_a_self_reference_of_an_entity_is_an_edge_in_its_role(plan):
    made = plan(
        """
        tables:
          employee:
            key: id
            references: [{columns: boss, table: employee, prefix: manager_}]
        entities: {employee: {table: employee}}
        """,
        {"employee": "id boss name"},
    )
    assert functional(made) == {("employee", "manager", "employee")}
    assert attributes(made, "employee") == {"name"}


@pytest.mark.parametrize(
    ("tables", "columns", "path"),
    [
        (
            "t: {key: id, references: [{columns: up, table: t, prefix: up_}]}",
            {"t": "id up"},
            "t → t",
        ),
        (
            "t: {key: id, references: [{columns: u, table: u}]}\n"
            "  u: {key: id, references: [{columns: t, table: t}]}",
            {"t": "id u", "u": "id t"},
            "t → u → t",
        ),
        (
            "t: {key: id, references: [{columns: p, table: whole}]}\n"
            "  whole: {key: id}\n"
            "  part: {key: id, references: [{columns: id, table: whole}, {columns: t, table: t}]}",
            {"t": "id p", "whole": "id", "part": "id t"},
            "t → whole → part → t",
        ),
        (
            "whole: {key: id}\n"
            "  t: {key: id, references: [{columns: id, table: whole}, {columns: w, table: whole}]}",
            {"whole": "id", "t": "id w"},
            "t → whole → t",
        ),
    ],
)
def test_a_cycle_of_folded_tables_is_named_with_its_remedy(plan, tables, columns, path):
    text = f"tables:\n  e: {{key: id, references: [{{columns: t, table: t}}]}}\n  {tables}\n"
    with pytest.raises(InvalidInput, match="Declare 't' an entity") as caught:
        plan(text + "entities: {e: {table: e}}", {"e": "id t", **columns})
    assert path in str(caught.value)


def test_a_cycle_through_entities_is_no_mistake(plan):
    made = plan(
        """
        tables:
          store: {key: id, references: [{columns: m, table: staff, prefix: manager_}]}
          staff: {key: id, references: [{columns: s, table: store}]}
        entities: {store: {table: store}, staff: {table: staff}}
        """,
        {"store": "id m", "staff": "id s"},
    )
    assert functional(made) == {("store", "manager", "staff"), ("staff", "store", "store")}


def test_a_foreign_key_moves_to_the_smaller_entity_that_determines_it(plan):
    """order → customer → country is not repeated as order → country."""
    made = plan(
        """
        tables:
          orders:
            key: id
            columns: {country: customer.country}
            references: [{columns: customer_id, table: customer}]
          customer: {key: id}
        entities: {orders: {table: orders}, customer: {table: customer}}
        attributes: {customer.country: {kind: category}}
        """,
        {"orders": "id customer_id country", "customer": "id name"},
    )
    assert attributes(made, "customer") == {"name", "country"}
    assert attributes(made, "orders") == set()
    assert functional(made) == {("orders", "customer", "customer")}


def test_an_attribute_of_a_role_is_named_by_the_role(plan):
    made = plan(
        """
        tables:
          airport: {key: code}
          flight:
            columns: {from_town: origin.town}
            references:
              - {columns: origin, table: airport, prefix: origin_}
              - {columns: dest, table: airport, prefix: dest_}
        entities: {airport: {table: airport}}
        """,
        {"airport": "code", "flight": "origin dest from_town"},
    )
    assert attributes(made, "airport") == {"town"}
    with pytest.raises(InvalidInput, match="in 2 roles"):
        plan(
            """
            tables:
              airport: {key: code}
              flight:
                columns: {from_town: airport.town}
                references:
                  - {columns: origin, table: airport, prefix: origin_}
                  - {columns: dest, table: airport, prefix: dest_}
            entities: {airport: {table: airport}}
            """,
            {"airport": "code", "flight": "origin dest from_town"},
        )


def test_an_entity_without_a_home_is_found_by_its_name_under_every_prefix(plan):
    """`ship_city` means one thing, whether it is a column or reached by `prefix: ship_`."""
    flat = plan(
        """
        tables: {orders: {key: id, surrogate: true, references: [{columns: c, table: customer}]},
                 customer: {key: id}}
        entities: {customer: {table: customer}, city: {key: city}}
        """,
        {"orders": "id c ship_city", "customer": "id city"},
    )
    chained = plan(
        """
        tables:
          orders:
            key: id
            surrogate: true
            references:
              - {columns: c, table: customer}
              - {columns: s, table: city, prefix: ship_}
          customer: {key: id, references: [{columns: city_id, table: city}]}
          city: {key: id, surrogate: true, columns: {name: city}}
        entities: {customer: {table: customer}, city: {key: city}}
        """,
        {"orders": "id c s", "customer": "id city_id", "city": "id name"},
    )
    for made in (flat, chained):
        assert functional(made) == {("customer", "city", "city")}
        assert pairs(made) == {("city", "orders.ship.customer", "customer")}


def test_an_entity_may_be_keyed_by_what_a_surrogate_hides(plan):
    made = plan(
        """
        tables:
          product: {key: id, surrogate: true, references: [{columns: brand_id, table: brand}]}
          brand: {key: id, surrogate: true, columns: {name: brand}}
          review: {references: [{columns: product_id, table: product}, {columns: u, table: user}]}
          user: {key: id}
        entities: {product: {table: product, key: [brand, model]}, user: {table: user}}
        """,
        {
            "product": "id brand_id model price",
            "brand": "id name",
            "review": "product_id u",
            "user": "id",
        },
    )
    assert made.nodes["product"].key == ("brand", "model")
    assert attributes(made, "product") == {"price"}
    assert pairs(made) == {("product", "review", "user")}


@pytest.mark.parametrize(
    ("more", "columns"),
    [
        ("", {"customer": "id email name"}),
        (
            "part: {key: id, references: [{columns: id, table: customer}]}",
            {"customer": "id name", "part": "id email"},
        ),
    ],
)
def test_an_entity_may_be_keyed_by_a_column_of_its_part(plan, more, columns):
    text = f"""
        tables:
          customer: {{key: id, surrogate: true}}
          buys: {{references: [{{columns: c, table: customer}}, {{columns: p, table: product}}]}}
          product: {{key: id}}
          {more}
        entities: {{customer: {{table: customer, key: email}}, product: {{table: product}}}}
        """
    made = plan(text, {**columns, "buys": "c p", "product": "id"})
    assert made.nodes["customer"].key == ("email",)
    assert attributes(made, "customer") == {"name"}
    assert pairs(made) == {("customer", "buys", "product")}


def test_a_vertical_part_of_a_folded_table_belongs_to_it(plan):
    made = plan(
        """
        tables:
          customer: {key: id, references: [{columns: city_id, table: city}]}
          city: {key: id, surrogate: true}
          city_more: {key: id, surrogate: true, references: [{columns: id, table: city}]}
        entities: {customer: {table: customer}}
        """,
        {"customer": "id city_id", "city": "id name", "city_more": "id population"},
    )
    assert attributes(made, "customer") == {"name", "population"}
    assert made.events == []


def test_tables_whose_keys_refer_to_each_other_are_one(plan):
    made = plan(
        """
        tables:
          a: {key: id, references: [{columns: id, table: b}]}
          b: {key: id, references: [{columns: id, table: a}]}
        entities: {a: {table: a}}
        """,
        {"a": "id x", "b": "id y"},
    )
    assert attributes(made, "a") == {"x", "y"}


def test_a_table_and_its_two_parts_are_no_cycle(plan):
    made = plan(
        """
        tables:
          a: {key: id, references: [{columns: city, table: city}]}
          city: {key: id, surrogate: true}
          people: {key: id, surrogate: true, references: [{columns: id, table: city}]}
          area: {key: id, surrogate: true, references: [{columns: id, table: people}]}
        entities: {a: {table: a}}
        """,
        {"a": "id city", "city": "id name", "people": "id population", "area": "id size"},
    )
    assert attributes(made, "a") == {"name", "population", "size"}


@pytest.mark.parametrize(
    ("entities", "both"),
    [("", "customer.name"), ("name: {key: name}", "name.name")],
)
def test_names_that_collide_are_both_named(plan, entities, both):
    text = f"""
        tables:
          customer: {{key: id, references: [{{columns: c, table: city}}]}}
          city: {{key: id, surrogate: true}}
        entities: {{customer: {{table: customer}}, {entities}}}
        """
    told = rf"(customer\.name and city\.name|city\.name and customer\.name) .* '{both}'"
    with pytest.raises(InvalidInput, match=told):
        plan(text, {"customer": "id c name", "city": "id name"})


def test_a_tie_that_folding_loses_is_said(plan):
    made = plan(
        """
        tables:
          orders: {key: id, surrogate: true, references: [{columns: c, table: customer}]}
          item: {references: [{columns: o, table: orders}, {columns: p, table: product}]}
          payment: {references: [{columns: o, table: orders}]}
          customer: {key: id}
          product: {key: id}
        entities: {customer: {table: customer}, product: {table: product}}
        """,
        {"orders": "id c", "item": "o p", "payment": "o amount", "customer": "id", "product": "id"},
    )
    assert any("declare 'orders'" in warning for warning in made.warnings)


def test_a_part_of_a_folded_table_loses_no_tie(plan):
    made = plan(
        """
        tables:
          orders: {key: id, surrogate: true, references: [{columns: c, table: customer}]}
          coupon: {key: id, references: [{columns: id, table: orders}]}
          payment: {references: [{columns: o, table: orders}]}
          customer: {key: id}
          product: {key: id}
        entities: {customer: {table: customer}, product: {table: product}}
        """,
        {
            "orders": "id c",
            "coupon": "id code",
            "payment": "o amount",
            "customer": "id",
            "product": "id",
        },
    )
    assert not any("orders" in warning for warning in made.warnings)


def test_a_misspelt_attribute_is_an_error_with_the_nearest_name(plan):
    with pytest.raises(InvalidInput, match=r"Did you mean 'customer\.city'"):
        plan(
            "tables: {customer: {key: id}}\nentities: {customer: {table: customer}}\n"
            "attributes: {customer.citty: {share: true}}",
            {"customer": "id city"},
        )


@pytest.mark.parametrize("name", ["''", "customer."])
def test_a_column_without_a_name_is_refused(plan, name):
    text = f"tables: {{customer: {{key: id, columns: {{x: {name}}}}}}}"
    with pytest.raises(ValueError, match="gives 'x' no name"):
        plan(text + "\nentities: {customer: {table: customer}}", {"customer": "id x"})


def test_an_unused_column_reaches_nothing(plan):
    made = plan(
        "tables: {a: {key: id, columns: {x: null}}}\nentities: {a: {table: a}}", {"a": "id x y"}
    )
    assert attributes(made, "a") == {"y"}


@pytest.mark.parametrize("odd", ["x/y", "a--b", "a:b"])
def test_a_name_that_no_folder_can_have_is_refused_where_it_would_name_one(plan, odd):
    text = """
        tables:
          customer: {{key: id, columns: {{c: "ODD"}}}}
          town: {{key: id}}
          orders:
            references:
              - {{columns: o, table: customer, prefix: "{0}"}}
              - {{columns: t, table: town}}
        entities: {{customer: {{table: customer}}, town: {{table: town}}}}
        attributes: {{"customer.ODD": {{share: {1}}}}}
        """.replace("ODD", odd)
    columns = {"customer": "id c", "orders": "o t", "town": "id"}
    assert attributes(plan(text.format("by_", "false"), columns), "customer") == {odd}
    with pytest.raises(InvalidInput, match="cannot be in the name"):
        plan(text.format("by_", "true"), columns)
    with pytest.raises(InvalidInput, match="cannot be in the name"):
        plan(text.format(odd + "_", "false"), columns)


def test_an_attribute_called_time_beside_the_time_of_an_event_is_refused(plan):
    text = """
        tables:
          a: {{key: id}}
          b: {{key: id}}
          buys:
            time: at
            columns: {{at: {0}}}
            references: [{{columns: a, table: a}}, {{columns: b, table: b}}]
        entities: {{a: {{table: a}}, b: {{table: b}}}}
        """
    columns = {"a": "id", "b": "id", "buys": "a b at time"}
    assert set(plan(text.format("at"), columns).events[0].attributes) == {"at", "time"}
    with pytest.raises(InvalidInput, match="what the time of the event is called"):
        plan(text.format("null"), columns)
