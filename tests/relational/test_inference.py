"""Keys, references and parts are found by names and values, never by accident."""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isohop.engines.spark import spark_session
from isohop.relational import naming
from isohop.relational.database import Reference, Table
from isohop.relational.inference import TESTS, Physical, infer_physical, propose_entities
from isohop.relational.integrity import read_landed
from isohop.relational.landing import LandedTable
from isohop.relational.profile import profile

Infer = Callable[..., Physical]
# Tests of both engines stand first: Spark does not start beside the session that the others share.
ENGINES = ["sail", pytest.param("spark", marks=pytest.mark.spark)]


@pytest.fixture(scope="module")
def session() -> Iterator[object]:
    with spark_session("sail") as session:
        yield session


@pytest.fixture
def infer(session, tmp_path) -> Infer:
    def run(tables: Mapping[str, Mapping], declared: Mapping[str, Table] | None = None) -> Physical:
        return inferred(session, tmp_path, tables, declared)

    return run


def inferred(
    session, folder: Path, tables: Mapping, declared: Mapping[str, Table] | None = None
) -> Physical:
    return infer_physical(
        {name: clean(session, folder, name, table) for name, table in tables.items()},
        declared or {},
    )


def clean(session, folder: Path, name: str, columns: Mapping | pa.Table):
    table = pa.table(dict(columns)) if not isinstance(columns, pa.Table) else columns
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()}.parquet"
    pq.write_table(table, path)
    landed = LandedTable(
        name=name,
        paths=(path,),
        schema=table.schema,
        rows=table.num_rows,
        rows_read=table.num_rows,
        fingerprint="",
        quarantine=None,
        notes=(),
    )
    return read_landed(session, landed)


def keys(found: Physical) -> dict[str, tuple[str, ...] | None]:
    return {name: table.key for name, table in found.tables.items()}


def references(found: Physical) -> set[str]:
    return {
        f"{name}.{', '.join(reference.columns)} -> {reference.table}"
        for name, table in found.tables.items()
        for reference in table.references or ()
    }


def surrogates(found: Physical) -> set[str]:
    return {name for name, table in found.tables.items() if table.surrogate}


def words(stem: str, count: int) -> list[str]:
    return [f"{stem} {number:04d}" for number in range(count)]


def shop(customer_id: str = "customer_id", customers: str = "customers") -> dict:
    return {
        customers: {"id": range(1, 41), "name": words("name", 40), "age": [30] * 40},
        "orders": {
            "order_id": range(1, 101),
            customer_id: [1 + number % 37 for number in range(100)],
            "quantity": [1 + number % 5 for number in range(100)],
            "price": [number / 7 for number in range(100)],
        },
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_find_the_same(tmp_path, engine):
    tables = shop() | {
        "items_2023": {"order_id": [1, 1, 2] * 10, "line": range(30), "sku": ["a", "b", "c"] * 10},
        "items_2024": {"order_id": [3, 3, 4] * 10, "line": range(30), "sku": ["a", "b", "c"] * 10},
    }
    with spark_session(engine) as session:
        found = inferred(session, tmp_path, tables)
    assert keys(found)["customers"] == ("id",)
    assert keys(found)["orders"] == ("order_id",)
    assert keys(found)["items"] == ("line", "order_id")
    assert found.parts == {"items": ("items_2023", "items_2024")}
    assert references(found) == {
        "orders.customer_id -> customers",
        "items.order_id -> orders",
    }
    assert surrogates(found) == {"customers", "orders"}


@pytest.mark.parametrize("engine", ENGINES)
def test_columns_of_every_type(tmp_path, engine):
    day, moment = dt.date(2020, 1, 1), dt.datetime(2020, 1, 1)
    things = {
        "id": pa.array([1, 2, 3], pa.int32()),
        "flag": [True, False, None],
        "bytes": [b"\xff\x01", b"b", None],
        "money": [decimal.Decimal("1.50")] * 3,
        "day": [day] * 3,
        "moment": pa.array([moment] * 3, pa.timestamp("us")),
        "list": [[1], [2], None],
        "struct": [{"a": 1}] * 3,
        "large": pa.array(["a b", "b", "b"], pa.large_string()),
        "x.y`z": [1.5, 2.5, 3.5],
    }
    uses = {"thing_id": pa.array([1, 2, 2], pa.int64())}
    with spark_session(engine) as session:
        found = inferred(session, tmp_path, {"things": things, "uses": uses})
    assert keys(found) == {"things": ("id",), "uses": None}
    assert references(found) == {"uses.thing_id -> things"}


@pytest.mark.parametrize(
    ("column", "table"),
    [
        ("customer_id", "customers"),
        ("CustomerID", "Customers"),
        ("customerid", "customer"),
        ("customerId", "tbl_customer"),
        ("CUSTOMER_NO", "CUSTOMER"),
        ("billing_customer_id", "customers"),
        ("billingCustomerId", "Customer"),
        ("id_customer", "customers"),
        ("fk_customer", "customers"),
        ("custid", "customers"),
        ("Kunden-Nr", "Kunden"),
        ("客户_id", "客户"),
        ("customer", "customers"),
    ],
)
def test_a_name_in_any_style_means_its_table(infer, column, table):
    assert references(infer(shop(column, table))) == {f"orders.{column} -> {table}"}


@pytest.mark.parametrize("column", ["quantity", "num_customers", "customers_count", "year", "x"])
def test_integers_in_range_are_no_reference(infer, column):
    assert references(infer(shop(column))) == set()


def test_counters_that_are_called_alike_are_no_reference(infer):
    teams = {"int_id": range(1, 31), "name": words("t", 30)}
    drivers = {"int_id": range(1, 61), "name": words("d", 60)}
    assert references(infer({"teams": teams, "drivers": drivers})) == set()
    tables = {"teams": {"xy_id": range(30)}, "drivers": {"xy_id": range(60)}}
    assert references(infer(tables)) == set()


def test_one_to_one_tables_refer_to_the_one_they_are_called_after(infer):
    film = {"film_id": range(30), "title": words("f", 30)}
    text = {"film_id": range(30), "description": words("d", 30)}
    assert references(infer({"film": film, "film_text": text})) == {"film_text.film_id -> film"}


def test_a_reference_takes_values_too(infer):
    tables = shop()
    tables["orders"]["customer_id"] = range(1000, 1100)
    assert references(infer(tables)) == set()


def test_orphans_are_tolerated_and_told(infer):
    tables = shop()
    tables["orders"]["customer_id"] = [1 + number % 50 for number in range(100)]
    found = infer(tables)
    assert references(found) == {"orders.customer_id -> customers"}
    (told,) = (e for e in found.evidence if e.what == "reference" and e.adopted)
    assert "40 of 50" in told.why
    assert "10 are orphans" in told.why


def test_roles_and_self_references(infer):
    found = infer(
        {
            "cities": {"id": range(1, 31), "name": words("city", 30)},
            "staff": {
                "staff_id": range(1, 31),
                "manager_id": [None, *[1] * 29],
                "home_city_id": range(1, 31),
                "work_city_id": [1, 2, 3] * 10,
            },
            "shops": {"shop_id": [1, 2, 3], "manager_staff_id": [1, 2, 2], "city": [1, 1, 2]},
        }
    )
    assert references(found) == {
        "staff.manager_id -> staff",
        "staff.home_city_id -> cities",
        "staff.work_city_id -> cities",
        "shops.manager_staff_id -> staff",
        "shops.city -> cities",
    }


def test_codes_need_no_name_but_much_support(infer):
    codes = [f"Q{number * 7919 % 100000:05d}" for number in range(60)]
    tables = {
        "airports": {"faa": codes, "name": words("airport", 60), "alt": [1.5] * 60},
        "flights": {"dest": codes[:40] * 2, "few": codes[:4] * 20, "other": ["ABCDEF"] * 80},
    }
    assert references(infer(tables)) == {"flights.dest -> airports"}


def test_a_column_of_another_type_than_the_key_it_is_called_after_is_told(infer):
    tables = shop()
    numbers = [float(number) for number in tables["orders"]["customer_id"]]
    for other in ([1.5, *numbers[1:]], ["NULL", *map(str, numbers[1:])]):
        tables["orders"]["customer_id"] = other
        found = infer(tables)
        assert not references(found)
        (told,) = (e for e in found.evidence if e.where == "orders.customer_id -> customers")
        assert not told.adopted
        assert "and the key is int64; say one type for both under 'types'" in told.why


def test_texts_that_look_like_dates_or_numbers_are_told(infer):
    """Only where all are spelt so, plain numbers among them or not."""
    bills = {
        "id": range(4),
        "day": ["13.04.2024", "1.5.2024", None, "02.03.2023 08:00"],
        "due": ["04/13/2024", "4/1/2024", "12/31/2023", "1/1/2024"],
        "sum": ["4742,97", "1.310,5", "-3", "2.5"],
        "share": ["55%", "7 %", "19%", "0"],
        "version": ["1.2.3", "4.5", "x", "1.0"],
        "zip": ["01067", "10115", "04109", "99084"],
        "mixed": ["13.04.2024", "yesterday", "1,5", "7%"],
    }
    told = {e.where: e.why for e in infer({"bill": bills}).evidence if e.what == "type"}
    assert set(told) == {"bill.day", "bill.due", "bill.sum", "bill.share"}
    assert "dates, as '02.03.2023 08:00', but are read as texts: write them as" in told["bill.day"]
    assert "numbers with a comma, as '1.310,5'" in told["bill.sum"]
    assert "percentages, as '19%'" in told["bill.share"]
    said = Table(types=dict.fromkeys(bills, "string"))
    assert not [e for e in infer({"bill": bills}, {"bill": said}).evidence if e.what == "type"]


def comments() -> dict:
    """As pandas writes them, for which a column of whole numbers with gaps is one of doubles."""
    return {
        "author": {"author_id": range(1, 41), "nick": words("nick", 40)},
        "comment": {
            "comment_id": range(500, 800),
            "author_id": [None if n % 7 == 0 else 1.0 + n % 40 for n in range(300)],
            "parent_id": [None if n % 3 else 500.0 + n // 2 for n in range(300)],
            "score": [None if n % 5 else float(n % 40) for n in range(300)],
        },
    }


def test_whole_numbers_that_are_kept_as_doubles_refer_as_whole_numbers_do(infer):
    found = infer(comments())
    assert references(found) == {"comment.author_id -> author", "comment.parent_id -> comment"}
    types = {"author_id": "integer", "parent_id": "integer"}
    assert {name: table.types for name, table in found.tables.items()} == {
        "author": {},
        "comment": types,
    }


def test_doubles_refer_to_keys_of_several_columns_too(infer):
    tables = {
        "album": {
            "artist_id": [n // 5 for n in range(100)],
            "album_no": [n % 5 for n in range(100)],
            "title": ["a"] * 100,
        },
        "line": {
            "artist_id": [None if n == 7 else float(n % 100 // 5) for n in range(300)],
            "album_no": [None if n == 7 else float(n % 5) for n in range(300)],
            "price": [n / 7 for n in range(300)],
        },
    }
    found = infer(tables)
    assert references(found) == {"line.album_no, artist_id -> album"}
    assert found.tables["line"].types == {"album_no": "integer", "artist_id": "integer"}


@pytest.mark.parametrize("column", ["author_id", "parent_id"])
def test_doubles_that_cannot_be_read_as_whole_numbers_are_told(session, tmp_path, infer, column):
    """Where the source binds, a person says another type, or a value has a fraction."""
    tables = comments()
    number = {name: Table(types={column: "number"}) for name in ("comment",)}
    held = {name: clean(session, tmp_path, name, table) for name, table in tables.items()}
    ways = [infer(tables, number), infer_physical(held, {}, takes_types=False)]
    tables["comment"][column][3] = 1.5
    ways.append(infer(tables))
    for found in ways:
        (told,) = [e for e in found.evidence if e.where.startswith(f"comment.{column} ->")]
        assert not told.adopted
        assert "it is double and the key is int64" in told.why


def test_scattered_identifiers_need_no_name_that_says_of_what(infer):
    keys = [1000 + number * 7919 % 90000 for number in range(60)]
    foods = {"food_id": keys, "name": words("food", 60)}
    values = {
        "food_id": keys * 2,
        "impute_id": keys[:40] * 3,
        "batch_id": [key + 1 for key in keys] * 2,
        "weight": keys[20:] * 3,
        "few_id": keys[:4] * 30,
    }
    found = infer({"foods": foods, "measured": values})
    assert references(found) == {"measured.food_id -> foods", "measured.impute_id -> foods"}
    counted = {"foods": foods | {"food_id": range(60)}, "measured": {"impute_id": range(60)}}
    assert references(infer(counted)) == set()


def test_composite_keys_and_references(infer):
    tables = {
        "orders": {"order_id": range(1, 31), "placed": words("day", 30)},
        "order_lines": {
            "order_id": [1 + number // 3 for number in range(90)],
            "line_no": [1 + number % 3 for number in range(90)],
            "price": [1.5] * 90,
        },
        "returns": {
            "return_id": range(1, 41),
            "order_id": [1 + number // 3 for number in range(40)],
            "line_no": [1 + number % 3 for number in range(40)],
        },
    }
    found = infer(tables)
    assert keys(found)["order_lines"] == ("line_no", "order_id")
    assert "returns.line_no, order_id -> order_lines" in references(found)
    assert "order_lines.order_id -> orders" in references(found)
    assert not found.tables["order_lines"].surrogate


def test_a_key_that_another_table_refers_by_is_tested_before_pairs_of_references(infer):
    draw = np.random.default_rng(1)
    people = {"no": range(1, 31), "name": words("name", 30)}
    orders = {
        f"{role}_no": draw.integers(1, 31, 400) for role in ("buyer", "giver", "payer", "clerk")
    }
    orders |= {"shop": [f"S{i % 4}" for i in range(400)], "order_no": [i // 4 for i in range(400)]}
    lines = {
        "shop": [f"S{i % 4}" for i in range(800)],
        "order_no": [(i // 4) % 100 for i in range(800)],
        "line_no": [i // 400 for i in range(800)],
    }
    found = infer(
        {"buyer": people, "giver": people, "payer": people, "clerk": people}
        | {"orders": orders, "line": lines}
    )
    assert keys(found)["orders"] == ("order_no", "shop")
    assert "line.order_no, shop -> orders" in references(found)


def test_a_bare_id_beside_a_tenant_is_its_own_tables(infer):
    """And who refers to such a row names its table."""

    def rows(count: int, **more: list) -> dict:
        numbered = {"tenant_id": [1] * count + [2] * count, "id": [*range(1, count + 1)] * 2}
        return numbered | {name: [*values, *values] for name, values in more.items()}

    found = infer(
        {
            "customers": rows(30, city=[f"c{i % 5}" for i in range(30)]),
            "products": rows(25, colour=[f"x{i % 3}" for i in range(25)]),
            "purchases": rows(
                60,
                customer_id=[i % 30 + 1 for i in range(60)],
                product_id=[i % 25 + 1 for i in range(60)],
            ),
        }
    )
    assert references(found) == {
        "purchases.customer_id, tenant_id -> customers",
        "purchases.product_id, tenant_id -> products",
    }


def test_what_rows_are_sorted_by_refers_to_no_order(infer):
    found = infer(
        {
            "category": {
                "id": range(8),
                "name": [f"n{i}" for i in range(8)],
                "sort_order": range(1, 9),
            },
            "orders": {"id": range(40), "total": [float(i) for i in range(40)]},
        }
    )
    assert references(found) == set()


@pytest.mark.parametrize("rows", [8, 60])
def test_a_number_that_others_say_again_and_again_is_the_key_and_no_title(infer, rows):
    numbers = [1000 + 7 * i for i in range(rows)]
    found = infer(
        {
            "products": {
                "ean": numbers,
                "title": [f"a thing {i}" for i in range(rows)],
                "grams": [50 + 3 * i for i in range(rows)],
            },
            "parcels": {"parcel_id": range(9), "grams": [9000 + i % 2 for i in range(9)]},
            "sales": {"sale_id": range(200), "ean": [numbers[i % rows] for i in range(200)]},
        }
    )
    assert found.tables["products"].key == ("ean",)
    assert references(found) == {"sales.ean -> products"}


@pytest.mark.parametrize("other", [3, None])
def test_where_the_key_has_a_value_twice_or_none_no_name_is_taken_for_it(infer, other):
    ids = [*range(119), other]
    found = infer(
        {
            "customers": {"customer_id": ids, "name": [f"name {i}" for i in range(120)]},
            "orders": {"order_id": range(300), "customer_id": [i % 119 for i in range(300)]},
        }
    )
    assert found.tables["customers"].key is None
    told = [e for e in found.evidence if e.where == "customers.customer_id" and not e.adopted]
    assert any("the same value or none" in one.why for one in told)


def test_a_key_of_two_columns_comes_before_a_name(infer):
    found = infer(
        {
            "customers": {
                "tenant_id": [1] * 30 + [2] * 30,
                "customer_id": [*range(30)] * 2,
                "name": [f"name {i}" for i in range(60)],
            },
        }
    )
    assert found.tables["customers"].key == ("customer_id", "tenant_id")


def test_a_number_at_its_end_makes_no_name_an_identifier(infer):
    columns = {
        "login": words("login", 40),
        "phone1": range(600_000, 600_040),
        "phone2": range(700_000, 700_040),
    }
    found = infer({"customer": columns, "orders": {"login": words("login", 40) * 3}})
    assert keys(found)["customer"] != ("phone1",)


def test_a_measure_is_no_key(infer):
    amounts = {"price": [n / 7 for n in range(50)], "people": [n * n * 31 for n in range(50)]}
    assert keys(infer({"sales": amounts})) == {"sales": None}


def test_a_database_that_declares_keys_and_references_is_taken_at_its_word(
    session, tmp_path, infer
):
    declared = {
        "customers": Table(key=("name",)),
        "orders": Table(references=(Reference(columns=("quantity",), table="customers"),)),
    }
    found = infer(shop(), declared)
    assert keys(found) == {"customers": ("name",), "orders": None}
    assert references(found) == {"orders.quantity -> customers"}
    tables = {name: clean(session, tmp_path, name, table) for name, table in shop().items()}
    needed = infer_physical(tables, declared, ["orders"])
    assert keys(needed) == {"customers": ("name",), "orders": ("order_id",)}


NUMBERS = range(1, 201)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([str(uuid.UUID(int=n << 90)) for n in NUMBERS], True),
        ([hashlib.md5(str(n).encode()).hexdigest() for n in NUMBERS], True),
        (list(NUMBERS), True),
        ([n + 5000 for n in NUMBERS], True),
        ([str(n) for n in NUMBERS], True),
        ([f"{n:05d}" for n in NUMBERS], False),
        ([1850 + n for n in NUMBERS], False),
        ([n * 97 for n in NUMBERS], False),
        ([f"K{n}" for n in NUMBERS], False),
        ([n + 5000 for n in range(50)], False),
        ([0, 1, 2], True),
    ],
)
def test_surrogate_keys_mean_nothing(infer, values, expected):
    table = {"thing_id": values, "name": ["x"] * len(values)}
    assert (surrogates(infer({"things": table})) == {"things"}) is expected


def test_parts_need_disjoint_keys(infer):
    one = {"id": range(10), "name": words("a", 10)}
    other = {"id": range(10, 20), "name": words("b", 10)}
    visits = {"customer_id": [1, 12, 13] * 10, "minutes": [1.5] * 30}
    found = infer({"customer_p0": one, "customer_p1": other, "visits": visits})
    assert found.parts == {"customer": ("customer_p0", "customer_p1")}
    assert found.profiles["customer"].rows == 20
    assert references(found) == {"visits.customer_id -> customer"}
    apart = infer({"customer_p0": one, "customer_p1": one})
    assert apart.parts == {}
    assert any(e.what == "union" and not e.adopted for e in apart.evidence)


def test_a_stem_that_is_a_table(infer):
    one = {"id": range(10), "name": words("a", 10)}
    other = {"id": range(10, 20), "name": words("b", 10)}
    same = infer({"orders": one, "orders_2024": other})
    assert same.parts == {"orders": ("orders", "orders_2024")}
    different = infer({"orders": {"x": [1.5]}, "orders_2023": one, "orders_2024": other})
    assert different.parts == {}


def test_parts_with_declared_references_to_parts(infer):
    def part(first: int) -> dict:
        return {"id": range(first, first + 10), "boss": [first] * 10}

    declared = {
        f"staff_{n}": Table(
            key=("id",), references=(Reference(columns=("boss",), table=f"staff_{n}"),)
        )
        for n in (1, 2)
    }
    found = infer({"staff_1": part(0), "staff_2": part(10)}, declared)
    assert found.parts == {"staff": ("staff_1", "staff_2")}
    assert references(found) == {"staff.boss -> staff"}


def test_parts_of_which_one_has_a_column_of_another_type_are_reported(infer):
    """As codes have that begin with 0 in one year alone."""
    found = infer(
        {
            "orders_2023": {"order_id": range(1, 40), "zip": [f"0{i:04}" for i in range(1, 40)]},
            "orders_2024": {"order_id": range(40, 80), "zip": [90000 + i for i in range(40)]},
        }
    )
    assert set(found.tables) == {"orders_2023", "orders_2024"}
    (told,) = [e for e in found.evidence if e.where == "orders_2023, orders_2024 -> orders"]
    assert not told.adopted
    assert "zip is int64 or string; say one type for all under 'types'" in told.why


def test_alike_tables_with_other_names_are_reported(infer):
    one = {"id": range(10), "name": words("a", 10), "age": [1] * 10}
    found = infer({"cats": one, "dogs": one})
    assert found.parts == {}
    assert [e.where for e in found.evidence if e.what == "union"] == ["cats, dogs"]


def test_tables_with_little_in_them(infer):
    found = infer(
        {
            "empty": {"id": pa.array([], pa.int64()), "name": pa.array([], pa.string())},
            "nothing": {"a": pa.nulls(3, pa.string()), "empty_id": pa.nulls(3, pa.int64())},
            "one": {"id": [1], "größe": [2.5], "名前": ["x"]},
        }
    )
    assert keys(found) == {"empty": None, "nothing": None, "one": ("id",)}
    assert references(found) == set()


def test_order_changes_nothing(infer):
    tables = shop()
    turned = {
        name: pa.table(dict(reversed(table.items()))).take(list(reversed(range(len(rows)))))
        for name, table in reversed(tables.items())
        for rows in [next(iter(table.values()))]
    }
    one, other = infer(tables), infer(turned)
    assert one.tables == other.tables
    assert one.evidence == other.evidence


def test_entities_are_what_things_are_about(infer):
    tables = shop()
    tables["customers"]["email"] = words("mail", 40)
    tables["colours"] = {"colour_id": range(5), "name": words("c", 5)}
    tables["likes"] = {"customer_id": [1, 2, 3] * 5, "colour_id": [0, 1, 2, 3, 4] * 3}
    proposed = propose_entities(infer(tables))
    assert proposed[0][0] == "customers"
    assert "2 references" in proposed[0][1]
    assert {name for name, _ in proposed}.isdisjoint({"colours", "likes"})


def test_words_and_parts_of_names():
    assert naming.words("ShipCityID2") == ("ship", "city", "id", "2")
    assert naming.words("HTTPServer") == ("http", "server")
    parts = ["orders_2023", "orders2024q1", "orders-p1", "orders 2023 jan", "orders_2023_01"]
    assert {naming.stem_of_part(name) for name in parts} == {"orders"}
    assert [naming.stem_of_part(name) for name in ("2023", "orders", "sales_jan")] == [None] * 3


class Counter:
    """Counts how often the engine is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        from pyspark.sql.connect.dataframe import DataFrame

        self.count, collect = 0, DataFrame.collect

        def counted(frame):
            self.count += 1
            return collect(frame)

        monkeypatch.setattr(DataFrame, "collect", counted)


def test_a_wide_table_takes_a_few_passes(session, tmp_path, monkeypatch):
    wide = {f"i{k}": [n % (k + 2) for n in range(500)] for k in range(150)}
    wide |= {f"t{k}_code": [f"x{n % (k + 2)}" for n in range(500)] for k in range(150)}
    tables = {"wide": clean(session, tmp_path, "wide", wide)}
    counter = Counter(monkeypatch)
    infer_physical(tables, {})
    assert counter.count <= 2 + TESTS


def test_many_tables_take_three_passes_each(session, tmp_path, monkeypatch):
    tables = {}
    for k in range(200):
        columns = {
            f"thing{k}_id": range(40),
            "name": words("n", 40),
            f"thing{'abc'[k % 3]}{(k + 1) % 200}_id": range(40),
            "count": range(40),
        }
        tables[f"t{'abc'[k % 3]}{k}x"] = clean(session, tmp_path, str(k), columns)
    counter = Counter(monkeypatch)
    infer_physical(tables, {})
    assert counter.count <= 3 * 200


def test_a_profile_tells_the_forms_of_texts(session, tmp_path):
    table = clean(
        session,
        tmp_path,
        "t",
        {
            "whole": ["1", "20", "-3"],
            "padded": ["01", "02", "10"],
            "hash": [hashlib.md5(bytes([n])).hexdigest() for n in range(3)],
            "free": ["a b", "c", None],
            "long": ["1" * 20, "2" * 20, "3" * 20],
        },
    )
    columns = profile(table).columns
    assert columns["whole"].integers
    assert (columns["whole"].minimum, columns["whole"].maximum) == (-3, 20)
    assert not columns["padded"].integers
    assert columns["hash"].opaque == "hexadecimal hashes"
    assert columns["long"].opaque is None
    assert not columns["long"].integers
    assert (columns["free"].nulls, columns["free"].mean_length) == (1, 2.0)
