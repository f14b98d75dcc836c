"""Requests through Django's own handlers, to the test project's shop."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import URLPattern, path

from testproject.shop.models import Customer
from tests.server.request_views import lost_reads

VIEWS = "tests.server.request_views"
#: What views and middlewares have seen or done outside of the database in this test.
seen: list[object] = []
#: Threads that a view has begun, for the test to join.
joined: list[threading.Thread] = []
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Give the alias "default" this engine."""
    settings = connections.settings["default"]
    before = settings["ENGINE"]
    forget_connection()
    settings["ENGINE"] = name
    try:
        yield
    finally:
        forget_connection()
        settings["ENGINE"] = before


def forget_connection() -> None:
    """So that the next one in this thread is made by the settings."""
    connections["default"].close()
    del connections["default"]


@contextmanager
def atomic_requests() -> Iterator[None]:
    settings = connections.settings["default"]
    settings["ATOMIC_REQUESTS"] = True
    try:
        yield
    finally:
        settings["ATOMIC_REQUESTS"] = False


def send(url: str, method: str = "get", data: Any = None, **more: Any) -> Any:
    client = Client(raise_request_exception=False)
    return getattr(client, method)(url, data, **more)


def send_async(url: str) -> Any:
    async def ask() -> Any:
        await sync_to_async(forget_connection)()
        response: Any = await AsyncClient(raise_request_exception=False).get(url)
        if response.streaming:
            response.body = b"".join([chunk async for chunk in response])
        else:
            response.body = response.content
        await sync_to_async(forget_connection)()
        return response

    return asyncio.run(ask())


def views(*found: Any) -> list[URLPattern]:
    """Each of these views under its name: the URLconf of a module of tests."""
    return [path(f"{view.__name__}/", view) for view in found]


def add(name: str, using: str = "default") -> None:
    """Nothing but the engine is in the way of a second row of that name."""
    Customer.objects.using(using).create(name=name, email=f"{uuid.uuid4()}@example.com")


def plain_atomic(request: HttpRequest) -> HttpResponse:
    """Nothing but two reads of one transaction, whose connection is lost between them."""
    return HttpResponse(lost_reads("plain_atomic"))


def names() -> list[str]:
    return sorted(Customer.objects.values_list("name", flat=True))
