"""A worker's job whose session somebody ends in between, and a Celery application that runs it.

    CELERY_FOLDER=... python -m celery -A tests.server.jobs worker

Imported by the tests and by the worker process.
"""

from __future__ import annotations

import os
from contextvars import Context
from typing import Any

from celery import Celery
from django.core.signals import request_finished, request_started
from django.db import connections, transaction

from django_resilient_pg.transaction import retry_atomic
from testproject.witness import independent

FOLDER = os.environ.get("CELERY_FOLDER", "")
# As long as a worker may take to start.
PATIENCE = 60.0

requests: list[Any] = []


def hear(**about: Any) -> None:
    """Count Django's request signals: no worker sends any."""
    requests.append(about)


request_started.connect(hear)
request_finished.connect(hear)


def broker(folder: str) -> dict[str, Any]:
    """A broker and a store of results in files: no other service, but other processes."""
    return {
        "broker_url": "filesystem://",
        "broker_transport_options": {
            "data_folder_in": folder,
            "data_folder_out": folder,
            "control_folder": folder,
        },
        "result_backend": f"file://{folder}",
        "broker_connection_retry_on_startup": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


app = Celery("jobs")
app.conf.update(broker(FOLDER))


def end_session(using: str) -> None:
    """End the session of this thread's connection, as an administrator would; wait for its end.

    In a context of its own: his connection, of the stock engine, has no part in the job.
    """
    Context().run(_end_session, using)


def _end_session(using: str) -> None:
    pid = str(connections[using].connection.info.backend_pid)
    with independent(using) as ask:
        # Waits until the process is gone; pg_stat_activity forgets it before that.
        assert ask("SELECT pg_terminate_backend(%s::int, 10000)", [pid]) == [(True,)]


@app.task(name="job")  # type: ignore[untyped-decorator]
def job(token: str, using: str = "default") -> dict[str, int]:
    """Lose the connection before a read, before a write and in the middle of a transaction.

    Returns:
        what was read, how often the transaction ran, its hooks, and request signals so far.
    """
    from testproject.shop.models import Customer, Movement, Order, OrderLine, Product

    product = Product.objects.using(using).earliest("sku")
    end_session(using)
    products = Product.objects.using(using).count()
    end_session(using)
    Movement.objects.using(using).create(product=product, quantity=1, token=token)
    runs: list[int] = []
    hooks: list[int] = []

    def buy() -> None:
        runs.append(1)
        customer = Customer.objects.using(using).earliest("email")
        order = Order.objects.using(using).create(customer=customer, token=token)
        transaction.on_commit(lambda: hooks.append(1), using=using)
        if len(runs) == 1:
            end_session(using)
        OrderLine.objects.using(using).create(order=order, product=product, token=token)

    retry_atomic.run(buy, using=using)
    done = {"products": products, "runs": len(runs), "hooks": len(hooks)}
    return {**done, "requests": len(requests)}
