"""Parameters that the application has taught its driver to write as text of the statement."""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.db import Error
from django.db.backends.postgresql.psycopg_any import Inet, Jsonb, NumericRange
from django.db.backends.signals import connection_created

from django_resilient_pg.errors import CommitOutcomeUnknown, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import DRIVER
from tests.faults.proxy import Proxy
from tests.server.scenarios import DATABASE, TABLE, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]
# The look before COMMIT is left out right after an answer; then the loss is found by COMMIT itself.
TOLD = (TransactionLost, CommitOutcomeUnknown)
WRITES = f"""CREATE FUNCTION writes(v text) RETURNS int VOLATILE LANGUAGE plpgsql AS $$ BEGIN
    IF current_setting('transaction_read_only') = 'off' THEN
        INSERT INTO {TABLE} (value) VALUES (v);
    END IF;
    RETURN 1; END $$"""
CALL = "writes('x')"


class Plain:
    """Registered with the driver."""


class Text(str):
    """Registered in the place of ``str``."""


class Number(float):
    """psycopg2 takes its repr() for a number, psycopg 3 without C its str()."""

    def __repr__(self) -> str:
        return CALL

    __str__ = __repr__


class Amount(Decimal):
    def __str__(self) -> str:
        return CALL


class Conforming:
    """psycopg2's protocol, without anything registered."""

    def __conform__(self, protocol: object) -> Conforming:
        return self

    def getquoted(self) -> bytes:
        return CALL.encode()


class Colour(enum.IntEnum):
    RED = 1


@pytest.fixture
def stage(server: Server, stage_of: Stages, proxy: Proxy) -> Stage:
    made = stage_of(PORT=proxy.port)
    server.execute(WRITES, database=DATABASE)
    return made


@pytest.fixture
def taught(stage: Stage) -> Iterator[Callable[[str], Any]]:
    """Teach the driver; returns a parameter that calls the function."""
    if DRIVER == "psycopg":
        yield lambda kind: in_psycopg3(kind, stage.connection.connection)
        return
    extensions: Any = importlib.import_module("psycopg2.extensions")
    before = dict(extensions.adapters)
    yield lambda kind: in_psycopg2(kind, extensions)
    extensions.adapters.clear()
    extensions.adapters.update(before)


def in_psycopg2(kind: str, extensions: Any) -> Any:
    def as_is(_: object) -> Any:
        return extensions.AsIs(CALL)

    values = {
        "own class": Plain(),
        "str": "a",
        "subclass of str": Text("a"),
        "number": 1.5,
        "date": importlib.import_module("datetime").date(2024, 1, 1),
        "list": [1],
        "dict": {"a": 1},
    }
    if kind in values:
        extensions.register_adapter(type(values[kind]), as_is)
        return values[kind]
    nested = {
        "in a list": [extensions.AsIs(CALL)],
        "in a range": NumericRange(extensions.AsIs(f"1,2)', {CALL}, '(1"), None),
        "conforming": Conforming(),
        "in an address": importlib.import_module("psycopg2.extras").Inet(
            extensions.AsIs(f"'::1'::inet, {CALL}, '::1'")
        ),
        "subclass of float": Number(1),
        "subclass of Decimal": Amount(1),
        "AsIs": extensions.AsIs(CALL),
        "subclass of AsIs": type("Raw", (extensions.AsIs,), {})(CALL),
    }
    return nested[kind]


def in_psycopg3(kind: str, connection: Any) -> Any:
    adapt: Any = importlib.import_module("psycopg.adapt")
    numeric: Any = importlib.import_module("psycopg.types.numeric")

    class Quotes(adapt.Dumper):  # type: ignore[misc]
        """With a ``quote()`` of its own."""

        def dump(self, value: object) -> bytes:
            return CALL.encode()

        quote = dump

    class Dumps(numeric.FloatDumper):  # type: ignore[misc]
        """What is dumped for a number is not quoted."""

        def dump(self, value: object) -> bytes:
            return CALL.encode()

    class Upgrades(adapt.Dumper):  # type: ignore[misc]
        """Leaves it to another one."""

        def dump(self, value: object) -> bytes:
            return b"1"

        def get_key(self, value: object, format: Any) -> Any:
            return (self.cls, "other")

        def upgrade(self, value: object, format: Any) -> Any:
            return Quotes(self.cls)

    values = {
        "own class": (Plain(), Quotes),
        "str": ("a", Quotes),
        "subclass of str": (Text("a"), Quotes),
        "number": (1.5, Dumps),
        "dict": ({"a": 1}, Quotes),
        "upgraded": (Plain(), Upgrades),
    }
    value, dumper = values[kind]
    connection.adapters.register_dumper(type(value), dumper)
    return value


COMMON = ["own class", "str", "subclass of str", "number", "dict"]
KINDS = pytest.mark.parametrize(
    "kind",
    [
        *COMMON,
        *[
            pytest.param(kind, marks=pytest.mark.psycopg2)
            for kind in (
                "date",
                "list",
                "in a list",
                "in a range",
                "in an address",
                "conforming",
                "subclass of float",
                "subclass of Decimal",
                "AsIs",
                "subclass of AsIs",
            )
        ],
        pytest.param("upgraded", marks=pytest.mark.psycopg3),
    ],
)
CALLS = "SELECT %s"


@KINDS
def test_it_is_not_lost_silently(
    kind: str, stage: Stage, taught: Callable[[str], Any], proxy: Proxy
) -> None:
    value = taught(kind)
    with pytest.raises(TOLD), stage.atomic():
        stage.run(CALLS, [value])
        proxy.cut()
    assert stage.rows() == []


@KINDS
def test_it_is_not_taken_for_committed(
    kind: str, stage: Stage, taught: Callable[[str], Any], proxy: Proxy
) -> None:
    value = taught(kind)
    with pytest.raises(CommitOutcomeUnknown), stage.atomic():
        stage.run(CALLS, [value])
        proxy.cut_at(1, "before")
    assert stage.rows() == []


@KINDS
@pytest.mark.parametrize("named", [False, True])
def test_it_is_not_read_again(
    kind: str, named: bool, stage: Stage, taught: Callable[[str], Any], proxy: Proxy
) -> None:
    value = taught(kind)
    proxy.cut_at(1, "answer")
    with pytest.raises(Error) as caught:
        if named:
            stage.run("SELECT %(v)s", {"v": value})
        else:
            stage.run(CALLS, [value])
    assert "may have committed already" in caught.value.__notes__[-1]
    assert stage.rows() == ["x"]


@KINDS
def test_it_is_not_done_twice(
    kind: str, stage: Stage, taught: Callable[[str], Any], stage_of: Stages, server: Server
) -> None:
    with Proxy(server.port) as other:
        first = stage_of(PORT=other.port)
        value = taught(kind)
        runs: list[int] = []

        def work() -> None:
            runs.append(1)
            stage.run(CALLS, [value])
            first.run("SELECT 1")
            other.cut()
            first.run("SELECT 1")

        with pytest.raises(Error):
            retry_atomic.run(work, using=first.connection.alias)
    assert len(runs) == len(stage.rows()) == 1


VALUES = {
    "str": "it's; \\ x",
    "a list": ["a", "b;"],
    "a tuple": (1, 2),
    "a number of one's own class": Colour.RED,
    "json": Jsonb({"a": "b;"}),
    "a range": NumericRange(1, 2),
    "a subclass of str": Text("a"),
    "an address": Inet("::1"),
    "bytes": memoryview(b"a;"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_one(name: str, stage: Stage, proxy: Proxy) -> None:
    sql = "SELECT (%s IN %s)" if name == "a tuple" and DRIVER == "psycopg2" else "SELECT %s"
    params = [1, VALUES[name]] if "IN" in sql else [VALUES[name]]
    before = str(stage.run(sql, params))
    proxy.cut_at(1, "answer")
    after = str(stage.run(sql, params))
    assert before.partition(" at ")[0] == after.partition(" at ")[0]
    with stage.atomic():
        stage.run(sql, params)
        stage.kill()


@pytest.mark.psycopg2
def test_a_number_that_is_written_as_it_is(stage: Stage, taught: object, proxy: Proxy) -> None:
    """As numpy's are, by a recipe of psycopg2's."""
    extensions: Any = importlib.import_module("psycopg2.extensions")
    extensions.register_adapter(Plain, lambda _: extensions.AsIs("15"))
    proxy.cut_at(1, "answer")
    assert stage.run("SELECT %s", [Plain()]) == [(15,)]


@pytest.mark.psycopg3
@pytest.mark.parametrize("binding", [False, True])
def test_a_dumper_that_does_not_quote_itself(binding: bool, stage_of: Stages, proxy: Proxy) -> None:
    from psycopg.adapt import Dumper

    class Dumps(Dumper):
        def dump(self, value: object) -> bytes:
            return CALL.encode()

        if binding:
            quote = dump  # type: ignore[assignment]  # the server's binding does not ask for it

    stage = stage_of(PORT=proxy.port, options={"server_side_binding": binding})
    stage.connection.connection.adapters.register_dumper(Plain, Dumps)
    proxy.cut_at(1, "answer")
    try:
        found = stage.run("SELECT %s::text", [Plain()])
    except Error:
        # The new connection has not been taught.
        return
    assert found == [(CALL,)]


@pytest.mark.psycopg3
def test_composed_sql_is_written_by_the_connections_own_dumpers(
    stage: Stage, taught: Callable[[str], Any], proxy: Proxy
) -> None:
    from psycopg import sql

    statement: Any = sql.SQL("SELECT {}").format(sql.Literal(taught("own class")))
    proxy.cut_at(1, "answer")
    with pytest.raises(Error):
        stage.run(statement)
    assert stage.rows() == ["x"]


@pytest.mark.psycopg3
def test_the_type_of_a_parameter_may_act(stage: Stage, server: Server, proxy: Proxy) -> None:
    """psycopg 3 writes it behind the parameter: the text does not name it."""
    from psycopg.types.composite import CompositeInfo, register_composite

    for statement in (
        "CREATE DOMAIN checked AS text CHECK (writes(VALUE) = 1)",
        "CREATE TYPE holder AS (v checked)",
    ):
        server.execute(statement, database=DATABASE)
    infos = []

    def register(connection: Any, **_: object) -> None:
        """As applications do, and Django for its own types."""
        info = CompositeInfo.fetch(connection.connection, "holder")
        assert info is not None
        register_composite(info, connection.connection)
        infos.append(info)

    stage.connection.close()
    connection_created.connect(register)
    try:
        with pytest.raises(TOLD), stage.atomic():
            stage.run("SELECT 1")
            stage.run("SELECT %s", [infos[0].python_type("x")])
            assert stage.run(f"SELECT value FROM {TABLE}")
            stage.kill()
    finally:
        connection_created.disconnect(register)
    assert stage.rows() == []
