"""Every snippet of README.rst and docs/ runs."""

from __future__ import annotations

import builtins
import dis
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from django.db import connection
from django.dispatch import Signal
from django.test.utils import isolate_apps

from django_resilient_pg import signals
from django_resilient_pg.policy.verdicts import Reason
from testproject import shop
from testproject.shop import models as shop_models
from tests.children import python
from tests.unit.pages import OBSERVE, OPTIONS, PAGES, PROMISE, README, blocks

pytestmark = pytest.mark.once
# What a project has before it has read a snippet that changes its settings.
BEFORE = """
SECRET_KEY = "for a test"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}}
INSTALLED_APPS = ["django.contrib.contenttypes"]
"""
TRY_SETTINGS = """
import django
from django.core import checks
from django.db import connections
from django_resilient_pg.mixins import ResilientDatabaseMixin

django.setup()
for connection in connections.all():
    assert isinstance(connection, ResilientDatabaseMixin), type(connection)
    print(connection.resilience.options)
    assert "resilience" not in connection.get_connection_params()
wrong = [message for message in checks.run_checks() if message.is_serious()]
assert not wrong, wrong
"""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block of Python on a page. Its first line is a comment with the file it belongs into."""

    page: str
    code: str

    @property
    def file(self) -> str:
        first = self.code.splitlines()[0]
        assert re.fullmatch(r"# [\w/]+\.py", first), f"{self.page}: {first!r}"
        return first[2:]

    def __str__(self) -> str:
        return f"{self.page}:{self.file}"


SNIPPETS = [Snippet(name, code) for name in PAGES for code in blocks(name, "python")]
SETTINGS = [one for one in SNIPPETS if one.file == "settings.py"]
MODULES = [one for one in SNIPPETS if one.file != "settings.py"]


def test_there_are_snippets() -> None:
    """Otherwise the tests below would prove nothing."""
    pages = {one.page for one in SNIPPETS}
    assert {README, OPTIONS, OBSERVE, PROMISE, "docs/compose.rst"} <= pages
    assert SETTINGS
    assert MODULES


# psycopg2 has no pool. The engine for GeoDjango loads its libraries, but asks no database here.
ONLY_WITH = {
    '"pool"': pytest.mark.psycopg3,
    '"django_resilient_pg.postgis"': pytest.mark.needs("GDAL", "GEOS"),
    # Not in every environment of every developer; in CI a skip is a failure.
    "metrics.opentelemetry.": pytest.mark.skipif(
        find_spec("opentelemetry") is None, reason="opentelemetry-sdk is not installed"
    ),
}


def with_its_marks(snippet: Snippet) -> Any:
    marks = [mark for text, mark in ONLY_WITH.items() if text in snippet.code]
    return pytest.param(snippet, marks=marks)


@pytest.mark.parametrize("snippet", [with_its_marks(one) for one in SETTINGS], ids=str)
def test_settings_work(snippet: Snippet, tmp_path: Path) -> None:
    """In a process of its own: Django starts, and this engine takes every database."""
    for module in MODULES:
        if module.page == snippet.page:
            file = tmp_path / module.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(module.code, encoding="utf-8")
    (tmp_path / "documented.py").write_text(f"{BEFORE}\n{snippet.code}\n", encoding="utf-8")
    named = {"DJANGO_SETTINGS_MODULE": "documented"}
    done = python("-c", TRY_SETTINGS, cwd=tmp_path, before=tmp_path, environ=named)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Options(")


@pytest.mark.parametrize("snippet", MODULES, ids=str)
def test_a_module_works(snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, no name in it is undefined, and its receivers take every record."""
    # The reader's own application.
    monkeypatch.setitem(sys.modules, "shop", shop)
    monkeypatch.setitem(sys.modules, "shop.models", shop_models)
    with _receivers_restored(), isolate_apps("testproject.shop"):
        namespace: dict[str, Any] = {"__name__": "testproject.shop.documented"}
        code = compile(snippet.code, str(snippet), "exec")
        exec(code, namespace)
        unknown = _globals_of(code) - namespace.keys() - set(dir(builtins))
        assert unknown == set()
        if "@receiver" in snippet.code:
            heard = [_announce(signal, record) for signal, record in RECORDS.items()]
            assert any(heard), "no receiver was connected"


def _globals_of(code: CodeType) -> set[str]:
    """Names that functions defined in ``code`` look up when they are called."""
    found = {str(one.argval) for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    return found.union(*(_globals_of(one) for one in code.co_consts if isinstance(one, CodeType)))


RECORDS: dict[Signal, object] = {
    signals.connection_lost: signals.ConnectionLost(
        "default", Reason.ADMINISTRATOR, "57P01", "terminating", 1.0, "statement"
    ),
    signals.connection_replaced: signals.ConnectionReplaced("default", None, 1.0, 0.1),
    signals.connect_retried: signals.ConnectRetried("default", 1, 0.1, "refused"),
    signals.statement_retried: signals.StatementRetried("default", "read", 1, 0.1),
    signals.transaction_retried: signals.TransactionRetried("default", 1, "40001", 0.0),
}


def _announce(signal: Signal, record: object) -> list[Any]:
    """As the engine does it, but errors of receivers come out. Returns who has heard it."""
    return signal.send(sender=type(connection), connection=connection, record=record)


@contextmanager
def _receivers_restored() -> Iterator[None]:
    before = {signal: list(signal.receivers) for signal in RECORDS}
    try:
        yield
    finally:
        for signal, receivers in before.items():
            signal.receivers = receivers
            signal.sender_receivers_cache.clear()


def test_the_safe_write_of_the_promise_is_refused_twice_by_the_database() -> None:
    (snippet,) = [one for one in MODULES if one.file == "shop/payments.py"]
    with isolate_apps("testproject.shop"):
        namespace: dict[str, Any] = {"__name__": "testproject.shop.documented"}
        exec(snippet.code, namespace)
    assert namespace["Payment"]._meta.get_field("token").unique


def test_the_health_snippet_tells_what_it_promises() -> None:
    (snippet,) = [one for one in MODULES if one.file == "shop/health.py"]
    namespace: dict[str, Any] = {}
    exec(snippet.code, namespace)
    told = namespace["health"]()
    assert told["because of"] == connection.resilience.limits.idle.source  # type: ignore[attr-defined]
    assert set(told) == {"lost", "surfaced", "idle limit (s)", "because of"}
