"""The example project works, and its load sees what it is there to see."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client
from django.utils.module_loading import import_string

from testproject import guard
from testproject.faults import Faults
from testproject.load import run
from testproject.postgres import Mode, Server
from testproject.shop.models import Customer, Movement, Order, OrderLine, Product
from testproject.shop.operations import PRODUCTS, stock_up
from tests.children import python
from tests.engines import RESILIENT, STOCK, Connections

pytestmark = pytest.mark.once_per_driver

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def shop(project: str) -> str:
    stock_up(project)
    return project


@pytest.fixture
def stock_alias(shop: str, make_connection: Connections) -> str:
    """The shop's database through Django's own engine, configured as well as it can be."""
    kept: dict[str, Any] = {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
    return make_connection(STOCK, database="project", **kept).alias


@contextmanager
def trigger(server: Server, action: str) -> Iterator[None]:
    """Let the server do something more after every INSERT into the table of movements."""
    ask = partial(server.execute, database="project")
    ask(
        "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f"AS $$ BEGIN {action}; RETURN NULL; END $$"
    )
    ask(
        "CREATE TRIGGER more AFTER INSERT ON shop_movement "
        "FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION more()"
    )
    try:
        yield
    finally:
        ask("DROP FUNCTION more() CASCADE")


@pytest.mark.usefixtures("shop")
def test_products_are_listed_page_by_page_with_their_stock() -> None:
    Movement.objects.create(product=Product.objects.get(sku="P020"), quantity=7)
    page = Client().get("/products/", {"after": "P019"}).json()["products"]
    assert page[0] == {"sku": "P020", "name": "Product 20", "price": "20.99", "stock": 7}
    assert (page[-1]["sku"], page[-1]["stock"]) == ("P039", 0)


@pytest.mark.usefixtures("shop")
def test_products_are_counted_by_an_asynchronous_view() -> None:
    assert Client().get("/products/count/").json() == {"products": PRODUCTS}


@pytest.mark.usefixtures("shop")
def test_order_is_placed_and_shown() -> None:
    placed = Client().post("/orders/new/", {"email": "new@example.org", "sku": "P001"})
    assert placed.status_code == 201
    shown = Client().get(f"/orders/{placed.json()['order']}/").json()
    assert shown == {"customer": "new@example.org", "lines": [{"sku": "P001", "quantity": 1}]}


@pytest.mark.usefixtures("shop")
def test_nothing_is_kept_of_an_order_that_fails() -> None:
    answer = Client().post("/orders/new/", {"email": "new@example.org", "sku": "unknown"})
    assert answer.status_code == 404
    assert not Customer.objects.filter(email="new@example.org").exists()
    assert not Order.objects.exists()


@pytest.mark.usefixtures("shop")
def test_movements_are_recorded_and_exported() -> None:
    for quantity in range(250):  # more than two fetches of the server-side cursor
        Client().post("/movements/new/", {"sku": "P002", "quantity": quantity})
    exported = Client().get("/movements/export/")
    lines = b"".join(exported).decode().splitlines()
    assert lines == ["sku,quantity", *(f"P002,{quantity}" for quantity in range(250))]


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(("quantity", "status"), [("many", 400), ("5", 201)])
def test_quantity_of_a_movement_is_checked(quantity: str, status: int) -> None:
    answer = Client().post("/movements/new/", {"sku": "P002", "quantity": quantity})
    assert (answer.status_code, Movement.objects.count()) == (status, int(status == 201))


@pytest.mark.parametrize("name", ["WSGI_APPLICATION", "ASGI_APPLICATION"])
def test_servers_find_the_application(name: str) -> None:
    assert callable(import_string(getattr(settings, name)))


def test_worker_works(project: str) -> None:
    out = io.StringIO()
    call_command("work", seconds=0.5, pause=0.0, database=project, stdout=out)
    assert "Everything went well." in out.getvalue()
    assert Movement.objects.count() == Order.objects.count() == OrderLine.objects.count() > 1


def test_worker_says_what_went_wrong(stock_alias: str, server: Server) -> None:
    with (
        Faults(server, "project", kill_every=0.2),
        pytest.raises(CommandError, match=r"(?s)^Not everything went well: .+ failed .+Error: "),
    ):
        call_command("work", seconds=1.0, pause=0.0, database=stock_alias, stdout=io.StringIO())


def test_healthy_load_has_nothing_to_complain_about(shop: str) -> None:
    result = run(shop, threads=3, seconds=1.0)
    assert min(result.operations.values()) > 0
    assert result.errors == {}
    assert (result.failed_reads, result.write_errors, result.failed_transactions) == (0, 0, 0)
    assert (result.lost, result.doubled, result.half_committed, result.hung) == (0, 0, 0, 0)
    assert sum(result.operations.values()) == sum(
        (Movement.objects.count(), Order.objects.count(), result.operations["read"])
    )


def test_load_leaves_no_connection_behind(stock_alias: str, server: Server) -> None:
    connections[stock_alias].close()
    before = set(server.backends("project"))
    run(stock_alias, threads=3, seconds=0.5)
    connections[stock_alias].close()
    left = set(server.backends("project")) - before
    assert guard.wait_gone(list(left), timeout=5.0)


def test_load_sees_the_stock_engine_fail(stock_alias: str, server: Server) -> None:
    faults = Faults(server, "project", kill_every=10)
    result = run(stock_alias, operations=500, faults=faults)
    assert faults.kills > 10
    assert result.failed_reads > 0
    assert (result.lost, result.doubled, result.half_committed) == (0, 0, 0)


def test_load_sees_failures_of_a_restart(own_server: Server) -> None:
    made = Connections(own_server)
    alias = made(STOCK).alias
    call_command("migrate", database=alias, verbosity=0)
    faults = Faults(own_server, "app", kill_every=None, restarts=[(100, "fast")], down=0.2)
    result = run(alias, operations=300, faults=faults)
    made.close()
    assert (faults.kills, faults.restarts) == (0, 1)
    assert result.failed_reads > 0


def test_load_sees_doubled_writes(stock_alias: str, server: Server) -> None:
    again = (
        "INSERT INTO shop_movement (product_id, quantity, token) "
        "VALUES (NEW.product_id, NEW.quantity, NEW.token)"
    )
    with trigger(server, again):
        result = run(stock_alias, threads=2, seconds=0.5)
    assert result.doubled == result.operations["write"] > 0


def test_load_sees_lost_writes(stock_alias: str, server: Server) -> None:
    with trigger(server, "DELETE FROM shop_movement WHERE id = NEW.id"):
        result = run(stock_alias, threads=2, seconds=0.5)
    assert result.lost == result.operations["write"] > 0


def test_load_asks_whom_it_is_told_to_ask(stock_alias: str, server: Server) -> None:
    ask = partial(server.execute, database="project")
    result = run(stock_alias, threads=1, seconds=0.2, ask=ask)
    assert result.lost == 0
    assert sum(result.operations.values()) > 0


def test_defect_of_the_load_is_raised(stock_alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testproject.load.MIX", {})
    with pytest.raises(IndexError):
        run(stock_alias, threads=1, seconds=5.0)


@pytest.mark.campaign
def test_two_hundred_kills_and_two_restarts_fail_no_read_and_double_no_write(
    own_connections: Connections, own_server: Server
) -> None:
    """For one read to be hit three times, sixty others would have to be done meanwhile."""
    connection = own_connections(RESILIENT, CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True)
    call_command("migrate", database=connection.alias, verbosity=0)
    restarts: list[tuple[float, Mode]] = [(2000, "fast"), (4000, "immediate")]
    faults = Faults(own_server, "app", kill_every=30, restarts=restarts)
    result = run(connection.alias, threads=6, operations=6000, faults=faults)
    assert (faults.kills > 150, faults.restarts) == (True, 2)
    assert result.failed_reads == 0, result.errors
    assert (result.lost, result.doubled, result.half_committed, result.hung) == (0, 0, 0, 0)


@pytest.mark.slow
def test_demo_fails_with_an_engine_that_fails() -> None:
    demo = python("-m", "testproject.demo", "--seconds", "3", environ={"DATABASE_ENGINE": STOCK})
    assert demo.returncode == 1, demo.stderr
    assert f"{STOCK}: " in demo.stdout.splitlines()[-1]
    assert "reads failed." in demo.stdout
