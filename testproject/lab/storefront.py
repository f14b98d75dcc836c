"""The application: what shoppers ask of it. Both sides run exactly this."""

from __future__ import annotations

import random
import time
from functools import cache

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_resilient_pg.errors import CommitOutcomeUnknown
from testproject.comparison import RESILIENT
from testproject.lab.sides import PATIENCE, PAYMENT
from testproject.shop.models import Order
from testproject.shop.operations import Shop, stock_up


@cache
def shop() -> Shop:
    """The stocked shop; its orders are under ``retry_atomic`` where the engine has that."""
    engine = settings.DATABASES["default"]["ENGINE"]
    return stock_up("default", retries=engine == RESILIENT, deadline=PATIENCE)


def browse(request: HttpRequest) -> HttpResponse:
    """Read something in autocommit."""
    shop().read(random.Random())
    return HttpResponse()


def order(request: HttpRequest) -> HttpResponse:
    """Write an order in a transaction."""
    token = request.GET["token"]
    try:
        shop().buy(random.Random(), token)
    except CommitOutcomeUnknown:
        # Only this engine raises it: the server was gone during the COMMIT. All its sessions ended
        # with it, so what is in the table by now is final.
        if not Order.objects.filter(token=token).exists():
            shop().buy(random.Random(), token)
    return HttpResponse(status=201)


def check_out(request: HttpRequest) -> HttpResponse:
    """Read, wait for the payment provider, then write the order."""
    shop().read(random.Random())
    time.sleep(PAYMENT)
    return order(request)


urlpatterns = [
    path("browse/", browse),
    path("order/", order),
    path("check-out/", check_out),
]
