"""What one contestant does in its process: jobs, and a shop to be loaded.

Imported in the environments of the peers, after the process has set Django up.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pkgutil import resolve_name
from time import monotonic
from typing import Any

from django.db import close_old_connections, connections
from django.db.transaction import atomic

from benchmarks import healthy
from benchmarks.peers.contestants import Contestant
from testproject.load import Operations
from testproject.shop.operations import (
    DEADLINE,
    PRODUCTS,
    RETRIES,
    Shop,
    expect,
    price,
    sku,
    stock_up,
)

Job = Callable[[], None]


class DjangoSide:
    """A contestant that is used through Django."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self.failed_requests = 0
        self.slowest_between = 0.0
        name = contestant.each_request
        self._each_request: Callable[[], object] | None = resolve_name(name) if name else None

    def between_requests(self) -> None:
        """What Django and the contestant's middleware do before and after each request.

        If that raises, the request has failed, whatever it did.
        """
        began = monotonic()
        try:
            close_old_connections()
            if self._each_request:
                self._each_request()
        except Exception:  # whatever reaches Django is answered with 500
            self.failed_requests += 1
        self.slowest_between = max(self.slowest_between, monotonic() - began)

    def shop(self) -> Shop:
        """The shop of the alias "default", with its goods."""
        return stock_up("default", retries=self.contestant.retries)

    def hold(self, wait: Callable[[], object]) -> None:
        """Use a connection of the alias "default" and keep it while waiting."""
        healthy.query(connections["default"])
        wait()

    def jobs(self, alias: str) -> dict[str, Job]:
        """What is measured, by name."""
        connection = connections[alias]
        found: dict[str, Job] = {
            "query": partial(healthy.query, connection),
            "orm query": partial(healthy.orm_query, connection),
            "transaction": partial(healthy.transaction, connection),
            "request": partial(self._request, connection),
            "atomic request": partial(self._atomic_request, connection),
        }
        return (
            found if self.contestant.pool else {**found, "connect": partial(_connect, connection)}
        )

    def _begin(self, connection: Any) -> None:
        connection.close_if_unusable_or_obsolete()
        if self._each_request:
            self._each_request()

    def _request(self, connection: Any) -> None:
        self._begin(connection)
        healthy.query(connection)
        connection.close_if_unusable_or_obsolete()

    def _atomic_request(self, connection: Any) -> None:
        self._begin(connection)
        with atomic(using=connection.alias):
            healthy.query(connection)
        connection.close_if_unusable_or_obsolete()


def _connect(connection: Any) -> None:
    connection.close()
    connection.ensure_connection()


class SqlAlchemySide:
    """SQLAlchemy's pool with ``pool_pre_ping``, without Django: raw statements."""

    def __init__(self, entries: Mapping[str, Any], driver: str, size: int) -> None:
        self.failed_requests = 0
        self.slowest_between = 0.0
        self._sqlalchemy = import_module("sqlalchemy")
        self._engines = {
            alias: self._engine(entry, driver, size) for alias, entry in entries.items()
        }

    def _engine(self, entry: Mapping[str, Any], driver: str, size: int) -> Any:
        where = {"dbname": "NAME", "user": "USER", "password": "PASSWORD"}
        where |= {"host": "HOST", "port": "PORT"}
        given = {key: entry[name] for key, name in where.items()} | entry["OPTIONS"]
        return self._sqlalchemy.create_engine(
            f"postgresql+{driver}://",
            creator=partial(import_module(driver).connect, **given),
            pool_pre_ping=True,
            pool_size=size,
            max_overflow=0,
        )

    def between_requests(self) -> None:
        """Nothing: each operation borrows a connection of its own."""

    def shop(self) -> SqlShop:
        """The same shop through SQLAlchemy."""
        stocked = stock_up("default")
        return SqlShop(self._engines["default"], self._sqlalchemy.text, stocked)

    def hold(self, wait: Callable[[], object]) -> None:
        """Use a connection of the alias "default" and keep it while waiting."""
        with self._engines["default"].connect() as borrowed:
            borrowed.execute(self._sqlalchemy.text("SELECT 1"))
            wait()

    def jobs(self, alias: str) -> dict[str, Job]:
        """What of the jobs can be done without Django."""
        engine, select = self._engines[alias], self._sqlalchemy.text("SELECT 1")
        kept: list[Any] = []

        def query() -> None:
            if not kept:
                kept.append(engine.connect().execution_options(isolation_level="AUTOCOMMIT"))
            kept[0].execute(select).fetchall()

        def request() -> None:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as borrowed:
                borrowed.execute(select).fetchall()

        def atomic_request() -> None:
            with engine.begin() as borrowed:
                borrowed.execute(select).fetchall()

        return {"query": query, "request": request, "atomic request": atomic_request}


class SqlShop:
    """The three kinds of operations as raw statements."""

    def __init__(self, engine: Any, text: Callable[[str], Any], stocked: Shop) -> None:
        self.using = stocked.using
        self._engine, self._text, self._stocked = engine, text, stocked

    def read(self, rng: random.Random) -> None:
        """One read in autocommit."""
        first = rng.randrange(PRODUCTS)
        sql = "SELECT count(*), max(price) FROM shop_product WHERE sku >= :first"
        with self._borrow() as borrowed:
            found = self._run(borrowed, sql, first=sku(first)).one()
        expect(tuple(found), (PRODUCTS - first, price(PRODUCTS - 1)))

    def write(self, rng: random.Random, token: str) -> None:
        """One INSERT in autocommit."""
        sql = "INSERT INTO shop_movement (product_id, quantity, token) VALUES (:product, 1, :token)"
        with self._borrow() as borrowed:
            self._run(borrowed, sql, product=rng.choice(self._stocked.products), token=token)

    def buy(self, rng: random.Random, token: str) -> None:
        """An order and its line in one transaction."""
        order = (
            "INSERT INTO shop_order (customer_id, placed, token)"
            " VALUES (:customer, now(), :token) RETURNING id"
        )
        line = (
            "INSERT INTO shop_orderline (order_id, product_id, quantity, token)"
            " VALUES (:order, :product, 1, :token)"
        )
        customer = rng.choice(self._stocked.customers)
        product = rng.choice(self._stocked.products)
        with self._engine.begin() as borrowed:
            number = self._run(borrowed, order, customer=customer, token=token).scalar_one()
            self._run(borrowed, line, order=number, product=product, token=token)

    def _borrow(self) -> Any:
        return self._engine.execution_options(isolation_level="AUTOCOMMIT").connect()

    def _run(self, borrowed: Any, sql: str, **given: object) -> Any:
        return borrowed.execute(self._text(sql), given)


class WatchedShop:
    """Another shop, with the moments (``time.monotonic``) at which an operation succeeded.

    ``retries``: single writes too run under ``retry_atomic``.
    """

    def __init__(self, shop: Operations, *, retries: bool) -> None:
        self.using = shop.using
        self.succeeded: list[float] = []
        self._shop, self._retries = shop, retries

    def read(self, rng: random.Random) -> None:
        """A read of the shop."""
        self._shop.read(rng)
        self.succeeded.append(monotonic())

    def write(self, rng: random.Random, token: str) -> None:
        """A single write of the shop."""
        work = partial(self._shop.write, rng, token)
        if self._retries:
            from django_resilient_pg.transaction import retry_atomic

            retry_atomic.run(work, using=self.using, retries=RETRIES, deadline=DEADLINE)
        else:
            work()
        self.succeeded.append(monotonic())

    def buy(self, rng: random.Random, token: str) -> None:
        """A transaction of the shop."""
        self._shop.buy(rng, token)
        self.succeeded.append(monotonic())
