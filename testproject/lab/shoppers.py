"""Who uses the application: shoppers that browse and order, and buyers that wait for a payment.

An order that fails is tried again, as people do: they cannot know whether it was saved.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, ClassVar
from wsgiref.util import setup_testing_defaults

from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception

from testproject.lab.sides import PAYMENT
from testproject.ledger import first_line

PACE = 0.25  # seconds from one request of a shopper to the next
ORDERS = 0.1  # part of a shopper's requests
TRIES = 20  # of an order: nobody gives up within an outage of the lab
PAUSE = 0.5  # seconds until somebody tries again
PATIENT = 1.0  # seconds after which a request is shown as waiting


class Tally:
    """What the shoppers have met, for the next report."""

    def __init__(self, handler: WSGIHandler) -> None:
        self.handler = handler
        self.shoppers: list[Shopper] = []
        self.done: SimpleQueue[list[Any]] = SimpleQueue()  # time, seconds, answered, token
        self.log: SimpleQueue[list[Any]] = SimpleQueue()  # time, level, text
        self.healed: SimpleQueue[str] = SimpleQueue()
        self._errors = threading.local()
        got_request_exception.connect(self._note, weak=False)

    def _note(self, **_: object) -> None:
        self._errors.last = sys.exception()

    def failure(self) -> str:
        """What the last request of this thread failed with."""
        error: BaseException = self._errors.last
        return first_line(error)


class Shopper(threading.Thread):
    """One person with a browser, and one thread of the web server."""

    pause: ClassVar[float] = 0.0  # seconds of a request that the database has no part in

    def __init__(self, tally: Tally) -> None:
        super().__init__(daemon=True)
        self._tally = tally
        self._since: float | None = None

    def is_waiting(self) -> bool:
        """Whether an answer takes long."""
        since = self._since
        return since is not None and time.monotonic() - since > PATIENT + self.pause

    def run(self) -> None:
        """Ask until the lab is over; a defect of the lab's own ends the application."""
        try:
            self._ask_on()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _ask_on(self) -> None:
        """Ask at a steady pace; what an outage has held up is not made up for."""
        due = time.monotonic() + random.random()
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            self.visit()
            due = max(due + PACE, time.monotonic())

    def visit(self) -> None:
        """Browse, or now and then order."""
        if random.random() < ORDERS:
            self.order("/order/")
        else:
            self.ask("GET", "/browse/")

    def order(self, path: str) -> None:
        """Order one thing, until somebody says that it is ordered."""
        token = uuid.uuid4().hex
        for _ in range(TRIES):
            if self.ask("POST", path, token):
                return
            time.sleep(PAUSE)

    def ask(self, method: str, path: str, token: str = "") -> bool:
        """Send one request; returns whether it was answered as it should be."""
        self._since = began = time.monotonic()
        status = self._send(method, path, f"token={token}")
        self._since = None
        answered = status.startswith("2")
        seconds = max(0.0, time.monotonic() - began - self.pause)
        self._tally.done.put([time.time(), seconds, answered, token])
        if not answered:
            self._tally.log.put([time.time(), "ERROR", self._tally.failure()])
        return answered

    def _send(self, method: str, path: str, query: str) -> str:
        environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path}
        environ["QUERY_STRING"] = query
        setup_testing_defaults(environ)
        told: list[str] = []

        def start(status: str, headers: object, error: object = None, /) -> Callable[[bytes], None]:
            told.append(status)
            return lambda body: None

        response = self._tally.handler(environ, start)
        for _ in response:
            pass
        response.close()
        return told[0]


class Buyer(Shopper):
    """Somebody who pays: the request waits for the payment provider in the middle."""

    pause = PAYMENT

    def visit(self) -> None:
        """Check out."""
        self.order("/check-out/")
