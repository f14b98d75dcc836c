"""What the shop does all day, through the ORM and without any error handling of its own.

The load and the ``work`` command draw from these. Every read checks its answer, because a
connection that is handed to two users, or replaced carelessly, does not only fail: it can answer
another query's rows.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from django.db import transaction
from django.db.models import Count, Func, Max, TextField, Value

from testproject.shop.models import Customer, Movement, Order, OrderLine, Product

PRODUCTS = 50
CUSTOMERS = 20
RETRIES = 5  # of a transaction
DEADLINE = 10.0  # seconds of a transaction with all its retries
NAP = 0.01  # seconds the slow read takes: long enough to be killed in the middle now and then


class WrongAnswer(AssertionError):
    """The database answered something other than what it holds."""


def expect(found: object, right: object) -> None:
    """Raise WrongAnswer unless ``found`` is ``right``."""
    if found != right:
        msg = f"found {found!r} instead of {right!r}"
        raise WrongAnswer(msg)


def sku(number: int) -> str:
    return f"P{number:03}"


def price(number: int) -> Decimal:
    return Decimal(number) + Decimal("0.99")


@dataclass(frozen=True, slots=True)
class Shop:
    """The three kinds of operations on alias ``using``, with what stock_up() created there."""

    using: str
    products: tuple[int, ...]  # primary keys
    customers: tuple[int, ...]
    retries: bool = False  # transactions run under retry_atomic
    deadline: float = DEADLINE

    def read(self, rng: random.Random) -> None:
        """One of the reads, in autocommit."""
        (chosen,) = rng.choices(list(READS), weights=list(READS.values()))
        chosen(self, rng)

    def write(self, rng: random.Random, token: str) -> None:
        """One INSERT in autocommit, marked with ``token``."""
        Movement.objects.using(self.using).create(
            product_id=rng.choice(self.products), quantity=rng.randrange(1, 100), token=token
        )

    def buy(self, rng: random.Random, token: str) -> None:
        """One transaction: an order, its line (often in a nested ``atomic()``), a read of both."""
        if not self.retries:
            with transaction.atomic(using=self.using):
                self._buy(rng, token)
            return
        from django_resilient_pg.transaction import retry_atomic

        retry_atomic.run(
            partial(self._buy, rng, token),
            using=self.using,
            retries=RETRIES,
            deadline=self.deadline,
        )

    def _buy(self, rng: random.Random, token: str) -> None:
        if rng.random() < 0.5:  # so that the first statement is a read as often as a write
            expect(Product.objects.using(self.using).count(), PRODUCTS)
        order = Order.objects.using(self.using).create(
            customer_id=rng.choice(self.customers), token=token
        )
        if rng.random() < 0.5:
            with transaction.atomic(using=self.using):
                self._add_line(rng, order)
        else:
            self._add_line(rng, order)
        expect([line.token for line in order.lines.all()], [token])

    def _add_line(self, rng: random.Random, order: Order) -> None:
        OrderLine.objects.using(self.using).create(
            order=order,
            product_id=rng.choice(self.products),
            quantity=rng.randrange(1, 5),
            token=order.token,
        )


def stock_up(using: str, *, retries: bool = False, deadline: float = DEADLINE) -> Shop:
    """Create the products and customers the operations work with, where they are missing."""
    products = Product.objects.using(using)
    products.bulk_create(
        [Product(sku=sku(n), name=f"Product {n}", price=price(n)) for n in range(PRODUCTS)],
        ignore_conflicts=True,
    )
    customers = Customer.objects.using(using)
    customers.bulk_create(
        [Customer(name=f"Customer {n}", email=f"{n}@example.org") for n in range(CUSTOMERS)],
        ignore_conflicts=True,
    )
    return Shop(
        using,
        products=tuple(products.values_list("pk", flat=True)),
        customers=tuple(customers.values_list("pk", flat=True)),
        retries=retries,
        deadline=deadline,
    )


def read_cheap_products(shop: Shop, rng: random.Random) -> None:
    limit = rng.randrange(1, PRODUCTS)
    cheap = Product.objects.using(shop.using).filter(price__lt=limit).order_by("sku")
    expect([product.sku for product in cheap], [sku(n) for n in range(limit)])


def read_aggregate(shop: Shop, rng: random.Random) -> None:
    first = rng.randrange(PRODUCTS)
    chosen = Product.objects.using(shop.using).filter(sku__gte=sku(first))
    found = chosen.aggregate(number=Count("pk"), dearest=Max("price"))
    expect(found, {"number": PRODUCTS - first, "dearest": price(PRODUCTS - 1)})


def read_orders_of_customer(shop: Shop, rng: random.Random) -> None:
    customer = rng.choice(shop.customers)
    lines = OrderLine.objects.using(shop.using).select_related("order__customer", "product")
    for line in lines.filter(order__customer=customer).order_by("-pk")[:10]:
        expect((line.order.customer.pk, line.order.token), (customer, line.token))


def read_slowly(shop: Shop, rng: random.Random) -> None:
    """A report that takes :data:`NAP` seconds in the server."""
    wanted = sku(rng.randrange(PRODUCTS))
    nap = Func(Value(NAP), function="pg_sleep", output_field=TextField())
    slow = Product.objects.using(shop.using).filter(sku=wanted).annotate(nap=nap)
    expect([row[0] for row in slow.values_list("sku", "nap")], [wanted])


READS: dict[Callable[[Shop, random.Random], None], int] = {
    read_cheap_products: 3,
    read_aggregate: 3,
    read_orders_of_customer: 3,
    read_slowly: 1,
}
