"""README.rst and docs/: every snippet runs, every table and quotation says what the code says."""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from pkgutil import resolve_name
from types import CodeType
from typing import Any

import pytest
from django.core.management import get_commands
from django.db import connection
from django.dispatch import Signal
from django.test import RequestFactory
from django.test.utils import isolate_apps

import django_resilient_pg
from benchmarks import healthy
from django_resilient_pg import deadlines, errors, providers, signals, urls
from django_resilient_pg.checks import middleware
from django_resilient_pg.conf import request_settings
from django_resilient_pg.conf.declarations import Declaration
from django_resilient_pg.conf.options import declarations
from django_resilient_pg.driver import link
from django_resilient_pg.policy import messages, parameters, verdicts
from django_resilient_pg.policy.rules import Circumstances, RetryRule, decide
from django_resilient_pg.policy.verdicts import Failure, Phase, Reason
from django_resilient_pg.recovery import announce_loss
from django_resilient_pg.recovery.catalogue import (
    HARMLESS_FUNCTIONS,
    HARMLESS_OF_EXTENSIONS,
)
from django_resilient_pg.replay.decide import why_lasting, why_not
from django_resilient_pg.replay.snapshot import Snapshot
from django_resilient_pg.sql.statements import analyse
from django_resilient_pg.state.session import Session
from django_resilient_pg.state.shared import Stats
from django_resilient_pg.state.unit_of_work import Unit
from django_resilient_pg.transaction import retry_atomic
from testproject import shop
from testproject.shop import models as shop_models

pytestmark = pytest.mark.once

# Imported by name: docutils has no types of its own.
NODES: Any = import_module("docutils.nodes")
CORE: Any = import_module("docutils.core")

ROOT = Path(__file__).resolve().parents[2]
README = "README.rst"
BENCHMARKS = "docs/benchmarks.rst"
OPTIONS = "docs/options.rst"
PROMISE = "docs/promise.rst"
OBSERVE = "docs/observe.rst"
UNITS = "docs/units.rst"
TOPOLOGIES = "docs/topologies.rst"
DEADLINES = "docs/deadlines.rst"
HEALTH = "docs/health.rst"
#: Where the pages of docs/ are published; PyPI knows no relative links.
SITE = "https://django-resilient-pg.readthedocs.io/en/stable"
PAGES = [
    README,
    "CHANGELOG.rst",
    "CONTRIBUTING.rst",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.rst")),
]
LATER = "Not in this version"
QUIET = {"syntax_highlight": "none", "raw_enabled": False, "file_insertion_enabled": False}

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


@cache
def page(name: str) -> Any:
    """The parsed page."""
    text = (ROOT / name).read_text(encoding="utf-8")
    overrides = {**QUIET, "warning_stream": StringIO(), "report_level": 1}
    return CORE.publish_doctree(text, source_path=name, settings_overrides=overrides)


def blocks(name: str, language: str) -> list[str]:
    """The blocks of a page in one language."""
    found = page(name).findall(NODES.literal_block)
    return [block.astext() for block in found if language in block["classes"]]


SNIPPETS = [Snippet(name, code) for name in PAGES for code in blocks(name, "python")]
SETTINGS = [one for one in SNIPPETS if one.file == "settings.py"]
MODULES = [one for one in SNIPPETS if one.file != "settings.py"]


def words(text: str) -> str:
    return " ".join(text.split())


def section(name: str, title: str) -> Any:
    """One section of a page."""
    for found in page(name).findall(NODES.section):
        if found[0].astext() == title:
            return found
    raise AssertionError(f"{name} has no section {title!r}")


def titles(name: str) -> list[str]:
    return [title.astext() for title in page(name).findall(NODES.title)]


def table(within: Any, first: str) -> list[list[str]]:
    """The rows, without the head, of the one table whose first heading is ``first``."""
    found = []
    for one in within.findall(NODES.table):
        rows = [
            [words(entry.astext()) for entry in row.findall(NODES.entry)]
            for row in one.findall(NODES.row)
        ]
        if rows[0][0] == first:
            found.append(rows[1:])
    (only,) = found
    return only


def listed_fields(within: Any) -> dict[str, str]:
    """The field lists (``:name: text``) of a section without its subsections' names doubled."""
    return {field[0].astext(): words(field[1].astext()) for field in within.findall(NODES.field)}


# -- all pages --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_valid(name: str) -> None:
    said = [message.astext() for message in page(name).findall(NODES.system_message)]
    assert said == []


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for reference in page(name).findall(NODES.reference):
        target = reference.get("refuri")
        if target is not None and not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            path = (ROOT / name).parent.joinpath(file).resolve()
            assert path.is_file(), f"{name}: {target}"
            if anchor:
                assert anchor in page(path.relative_to(ROOT).as_posix()).ids, f"{name}: {target}"


@pytest.mark.parametrize("name", PAGES)
def test_what_is_named_exists_and_what_comes_later_does_not(name: str) -> None:
    later = [
        literal.astext()
        for found in page(name).findall(NODES.section)
        if found[0].astext() == LATER
        for literal in found.findall(NODES.literal)
    ]
    for literal in page(name).findall(NODES.literal):
        text = literal.astext()
        if re.fullmatch(r"django_resilient_pg(\.\w+)+", text):
            assert _exists(text) == (text not in later), f"{name}: {text}"


def _exists(dotted: str) -> bool:
    try:
        resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("name", PAGES)
def test_commands_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = {
        word
        for line in makefile.splitlines()
        if line.startswith(".PHONY:")
        for word in line.split()[1:]
    }
    shell = "\n".join(blocks(name, "shell"))
    for target in re.findall(r"``make ([\w-]+)", text) + re.findall(r"^make ([\w-]+)", shell, re.M):
        assert target in phony, f"{name}: make {target}"
    for command in re.findall(r"manage\.py (\w+)", text):
        assert command in get_commands(), f"{name}: manage.py {command}"
    extras = _project()["optional-dependencies"]
    for extra in re.findall(r"django-resilient-pg\[(\w+)\]", text):
        assert extra in extras, f"{name}: extra {extra}"


@cache
def _project() -> dict[str, Any]:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project: dict[str, Any] = whole["project"]
    return project


def test_every_page_is_in_the_index() -> None:
    links = {node["refuri"] for node in page("docs/index.rst").findall(NODES.reference)}
    own = {Path(name).name for name in PAGES if name.startswith("docs/")} - {"index.rst"}
    assert own <= links


# -- snippets ---------------------------------------------------------------------------------


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
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "documented",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", TRY_SETTINGS],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
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


# -- README -----------------------------------------------------------------------------------


def test_the_errors_it_claims_to_cure_are_recognised_as_losses() -> None:
    claimed = blocks(README, "text")[0].splitlines()
    assert len(claimed) == 8
    for text in claimed:
        failure = Failure(Phase.STATEMENT, None, "OperationalError", None, None, text)
        assert verdicts.judge(failure).lost, text


def test_the_readme_is_short() -> None:
    assert len((ROOT / README).read_text(encoding="utf-8").split()) <= 1200
    samples = [node.astext() for node in page(README).findall(NODES.literal_block)]
    assert max(len(sample.splitlines()) for sample in samples) <= 25


def test_the_links_of_the_readme_work_on_pypi_too() -> None:
    pages = {f"{SITE}/{path.stem}.html" for path in (ROOT / "docs").glob("*.rst")}
    targets = {node["refuri"] for node in page(README).findall(NODES.reference)}
    assert len(targets) > 5
    assert targets <= pages


COMMANDS = {
    (README, "demo"): "make demo",
    (README, "healthy"): "make benchmark",
    (BENCHMARKS, "healthy"): "make benchmark",
    (BENCHMARKS, "bench"): "make bench",
    (BENCHMARKS, "cuts"): "make cuts",
    (BENCHMARKS, "soak"): "make soak",
    (BENCHMARKS, "load"): "make test ENV=py311-django52-psycopg3 ARGS=",
    ("docs/checkdbconn.rst", "sample"): "python -m testproject.sample",
}


@pytest.mark.parametrize(("of", "name"), COMMANDS)
def test_figures_come_from_a_command(of: str, name: str) -> None:
    """A marked block names its command; outside of the command's output it has no figure."""
    text = (ROOT / of).read_text(encoding="utf-8")
    ((block),) = re.findall(rf"^\.\. figures: {name}\n(.*?)^\.\. figures end$", text, re.M | re.S)
    assert COMMANDS[of, name] in block
    prose = " ".join(line for line in block.splitlines() if not line.startswith(" "))
    assert not re.search(r"\d", re.sub("``.*?``|psycopg ?[23]", "", prose))


def test_the_bounds_of_the_benchmark_are_those_it_holds() -> None:
    prose = words(section(BENCHMARKS, "Where nothing is wrong").astext())
    assert f"a query costs more than {healthy.BOUNDS['query']} times" in prose
    assert f"a transaction more than {healthy.BOUNDS['transaction']} times" in prose
    assert f"CONN_HEALTH_CHECKS more than {healthy.BOUNDS['request']} times" in prose
    assert f"importing the engine {healthy.IMPORT_BOUND * 1000:g} ms" in prose


def test_the_requirements_are_those_of_the_package() -> None:
    prose = words(section(README, "Requirements").astext())
    named = [classifier.rpartition(" :: ") for classifier in _project()["classifiers"]]
    versions = {
        (kind, version)
        for kind, _, version in named
        if kind in {"Framework :: Django", "Programming Language :: Python :: 3"}
        and re.fullmatch(r"\d\.\d+", version)
    } | {
        (kind, version)
        for kind, _, version in named
        if kind == "Programming Language :: Python" and re.fullmatch(r"3\.\d+", version)
    }
    assert len(versions) == 7
    for _, version in versions:
        assert version in prose
    for extra in ("psycopg", "psycopg2"):
        (needed,) = _project()["optional-dependencies"][extra]
        assert f"({needed.partition('>=')[2]} or later)" in prose


def test_the_gap_between_two_looks_is_as_long_as_documented() -> None:
    assert link.FRESH == 0.0005
    for name in (README, PROMISE):
        assert "half a millisecond" in words(page(name).astext())
    assert "within the last 0.5 ms" in words(page("docs/decisions.rst").astext())


def test_learning_begins_where_documented() -> None:
    assert announce_loss._LEARN_FROM == 5.0
    assert "idle for five seconds or more" in words(page(OPTIONS).astext())


ARCHITECTURE = "docs/architecture.rst"
HOME = Path(str(django_resilient_pg.__file__)).parent


@cache
def defined(path: str) -> set[str]:
    """The functions, classes and methods of a file, as "name" and "Class.name"."""
    found: set[str] = set()
    for node in ast.parse((HOME / path).read_text(encoding="utf-8")).body:
        name = getattr(node, "name", "")
        found |= {
            name,
            *(f"{name}.{getattr(one, 'name', '')}" for one in getattr(node, "body", ())),
        }
    return found


def test_what_happens_when_leads_to_what_there_is() -> None:
    literals = [node.astext() for node in page(ARCHITECTURE).findall(NODES.literal)]
    places = [one.split(": ") for one in literals if re.fullmatch(r"[\w/]+\.py: [\w.]+", one)]
    assert len(places) > 30
    assert [(path, name) for path, name in places if name not in defined(path)] == []


def test_every_guarantee_leads_to_its_code() -> None:
    rows = table(section(ARCHITECTURE, "What happens when ..."), "The connection was lost ...")
    assert len(rows) >= 16
    assert all(".py: " in where for _, where in rows)


def test_every_file_of_the_engine_is_in_the_architecture() -> None:
    told = {
        f"{name}/{one.astext()}" if name != "." else one.astext()
        for name, listed in _folders()
        for one in listed.findall(NODES.literal)
    }
    skipped = {"diagnosis", "management", "postgis", "postgresql"}
    files = {path.relative_to(HOME) for path in HOME.rglob("*.py") if path.stem != "__init__"}
    own = {path.as_posix() for path in files if path.parts[0] not in skipped}
    django = {f"{name}.py" for name in packages_of_django()}
    assert own - django <= told


def _folders() -> Iterator[tuple[str, Any]]:
    for item in section(ARCHITECTURE, "Folders").findall(NODES.definition_list_item):
        name = item[0].astext().rstrip("/")
        yield ("." if name == "At the top" else name), item[1]


def packages_of_django() -> list[str]:
    """Names of Django's own modules, which other packages import by ``ENGINE``."""
    names = "client compiler creation features introspection operations psycopg_any schema"
    return names.split()


def test_the_changelog_begins_with_this_version() -> None:
    first = next(title for title in titles("CHANGELOG.rst") if title[0].isdigit())
    assert first.split()[0] == django_resilient_pg.__version__


# -- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", declarations(), ids=lambda declared: declared.name)
def test_every_option_has_its_entry(declared: Declaration) -> None:
    entry = section(OPTIONS, declared.name)
    listed = listed_fields(entry)
    assert words(entry[1].astext()) == words(declared.doc)
    assert listed["Default"] == repr(declared.default)
    assert listed["Allowed"] == _allowed(declared)
    assert "Does not" in listed


def _allowed(declared: Declaration) -> str:
    """As the error message has it."""
    return declared.allowed


def test_no_option_is_documented_that_does_not_exist() -> None:
    documented = [title for title in titles(OPTIONS) if re.fullmatch(r"[a-z_]+", title)]
    assert documented == [one.name for one in declarations()]


def test_the_libpq_parameters_are_those_that_are_added() -> None:
    rows = {row[0]: row[1] for row in table(section(OPTIONS, "libpq parameters"), "Parameter")}
    added = parameters.additions({"host": "db.example.org"}, {})
    assert rows == {name: str(value) for name, value in added.items()}


# -- requests and transactions ----------------------------------------------------------------


def test_every_setting_of_the_middleware_is_documented() -> None:
    rows = table(section(UNITS, "Settings"), "Setting")
    declared = request_settings.DECLARED
    assert rows == [[one.name, repr(one.default), one.allowed] for one in declared]


def test_every_setting_of_the_health_probes_is_documented() -> None:
    ready, token = table(section(HEALTH, "Settings"), "Setting")
    declared = request_settings.READY_DEADLINE
    assert ready == [declared.name, repr(declared.default), declared.allowed]
    assert token[:2] == [request_settings.STATUS_TOKEN, "None"]
    assert f"at least {request_settings.SHORTEST_TOKEN} characters" in token[2]


def test_every_address_of_the_health_probes_is_documented() -> None:
    documented = [title for title in titles(HEALTH) if title.endswith("/")]
    assert documented == [str(one.pattern) for one in urls.urlpatterns[:3]]


def test_every_system_check_of_the_middleware_is_documented() -> None:
    source = Path(str(middleware.__file__)).read_text(encoding="utf-8")
    ids = re.findall(r'id="(resilient_pg\.[EWI]\d+)"', source)
    assert len(ids) == 5
    assert sorted(ids) == list(listed_fields(section(UNITS, "System checks")))


def test_the_arguments_of_retry_atomic_are_documented() -> None:
    rows = table(section(UNITS, "A function"), "Argument")
    given = inspect.signature(retry_atomic.run).parameters.values()
    options = [one for one in given if one.kind is inspect.Parameter.KEYWORD_ONLY]
    assert [row[:2] for row in rows] == [[one.name, repr(one.default)] for one in options]


def test_the_bounds_have_the_defaults_of_the_code() -> None:
    options = {one.name: repr(one.default) for one in declarations()}
    atomic = inspect.signature(retry_atomic.run).parameters["deadline"].default
    expected = {
        "connect_timeout": f"{providers.CONNECT_TIMEOUT:g}",
        "ping_timeout": options["ping_timeout"],
        "retry_deadline": options["retry_deadline"],
        'OPTIONS["pool"]["timeout"]': "not set",
        "retry_atomic(deadline=...)": repr(atomic),
        request_settings.DEADLINE.name: repr(request_settings.DEADLINE.default),
        "deadline(seconds)": "not set",
    }
    rows = table(section(DEADLINES, "What bounds what"), "Bound")
    assert {row[0]: row[1] for row in rows} == expected
    prose = words(section(DEADLINES, "Failing fast").astext())
    assert f"may take {deadlines.LEAST:g} s, even if less is left" in prose


def test_the_reasons_that_are_quoted_are_the_middlewares_own() -> None:
    unit = Unit()
    unit.took_effect("default", "INSERT INTO t VALUES (1)")
    request = RequestFactory().post("/")
    request.resolver_match = None
    methods = request_settings.METHODS.default
    reasons = [why_lasting(unit), why_not(request, unit, Snapshot(request), "POST", methods)]
    quoted = [words(block) for block in blocks(UNITS, "text")]
    for reason in reasons:
        assert any(f"The request was not replayed: {reason}." in block for block in quoted), reason


# -- the guarantees ---------------------------------------------------------------------------


def test_statements_are_retried_as_the_table_says() -> None:
    text = "server closed the connection unexpectedly"
    failure = Failure(Phase.STATEMENT, True, "OperationalError", None, None, text)
    verdict = verdicts.judge(failure)
    autocommit = Circumstances(autocommit=True, untouched=True)
    first = Circumstances(autocommit=False, untouched=True)
    rows = table(section(PROMISE, "Which statement is what"), "Statement")
    assert len(rows) > 10
    for sql, *documented in rows:
        decisions = [decide(verdict, analyse(sql).kind, at) for at in (autocommit, first)]
        actual = ["raised" if one.rule is None else "retried" for one in decisions]
        assert documented == actual, sql


def test_sessions_are_pinned_as_the_table_says() -> None:
    rows = table(section(PROMISE, "With session state"), "Statement")
    assert {answer for _, answer in rows} == {"replayed", "pins", "nothing"}
    for sql, answer in rows:
        session = Session()
        session.note(sql)
        kept = "replayed" if session.settings else "nothing"
        assert answer == ("pins" if session.pinned_by else kept), sql


def test_the_harmless_functions_are_all_listed() -> None:
    listed = blocks(PROMISE, "text")[0].split()
    of_extensions = {name.partition(".")[2] for name in HARMLESS_OF_EXTENSIONS}
    assert listed == sorted(HARMLESS_FUNCTIONS | of_extensions)


WRITE = decide(
    verdicts.judge(Failure(Phase.STATEMENT, True, "", None, None, "")),
    analyse("INSERT INTO t VALUES (1)").kind,
    Circumstances(autocommit=True, untouched=True),
)
LATE = decide(
    verdicts.judge(Failure(Phase.STATEMENT, True, "", None, None, "")),
    analyse("SELECT 1").kind,
    Circumstances(autocommit=False, untouched=False),
)
QUOTED = [
    (PROMISE, messages.refused("default", Reason.ADMINISTRATOR, 0.4, None, WRITE.why, "57P01")),
    (PROMISE, f"The statement was not retried: {LATE.why}."),
    (PROMISE, messages.transaction_lost("default")),
    (PROMISE, messages.session_lost("default", "LISTEN news")),
    (PROMISE, messages.commit_unknown("default", Reason.ADMINISTRATOR)),
    (PROMISE, messages.delivered("default", 300)),
    (PROMISE, messages.unreachable("default", 10.0, messages.bound("retry_deadline", 10.0))),
    (PROMISE, messages.down("default", "connection refused", 0.3, waits=False)),
    (PROMISE, messages.not_ended("default", "the role may not terminate it")),
    (PROMISE, messages.crashed("default")),
    (PROMISE, messages.cancelled("default")),
    (PROMISE, messages.never_connected("default")),
    (PROMISE, messages.long_down("default", 62.0, 10.0, 1796040184.0)),
    (TOPOLOGIES, messages.read_only("default")),
    (TOPOLOGIES, messages.IN_TESTCASE),
    (OBSERVE, messages.happened("default", Reason.SERVER_IDLE_TIMEOUT, 35.0, None)),
]


@pytest.mark.parametrize(("name", "sentence"), QUOTED)
def test_quoted_messages_are_the_engines_own(name: str, sentence: str) -> None:
    quoted = [words(block) for block in blocks(name, "text")]
    assert any(words(sentence) in block for block in quoted), sentence


def test_every_error_is_explained() -> None:
    text = page(PROMISE).astext()
    own = [name for name, one in vars(errors).items() if _defined_in(one, errors.__name__)]
    assert own
    for name in own:
        assert f"django_resilient_pg.errors.{name}" in text


def _defined_in(one: object, module: str) -> bool:
    return isinstance(one, type) and one.__module__ == module


# -- observing --------------------------------------------------------------------------------


RECORD_CLASSES = [
    one
    for one in vars(signals).values()
    if _defined_in(one, signals.__name__) and is_dataclass(one)
]


# What docs/observe.rst says of each line of the log that is worth knowing.
LOGGED = {
    ("incidents", "info"): "A lost connection was healed",
    ("incidents", "warning"): "A lost connection surfaced",
    ("announce", "info"): "A transaction was retried after a conflict",
    ("announce", "warning"): "A request failed because its connection was lost",
    ("statement", "info"): "A statement was retried without a loss",
    ("replace", "warning"): "A statement was interrupted",
    ("unit_of_work", "warning"): "AttemptAbandoned",
    ("attempts", "info"): "A server is not accepting connections",
    ("settle", "info"): "CONN_MAX_AGE",
    ("pool", "info"): "A pooled connection failed its check",
    ("views", "warning"): "A database is not ready when",
    ("views", "info"): "A database is ready again",
    ("pool", "warning"): "A pooled connection is held for longer than pool_leak_after",
}


_SAYS = r"(?<=logger\.)(?:error|warning|info)(?=\()|(?<=logging\.)(?:ERROR|WARNING|INFO)\b"


def test_every_level_of_the_log_is_documented_and_none_is_an_error() -> None:
    home = Path(str(django_resilient_pg.__file__)).parent
    written = {
        (path.stem, level)
        for path in home.rglob("*.py")
        for level in map(str.lower, re.findall(_SAYS, path.read_text(encoding="utf-8")))
    }
    assert written == set(LOGGED)
    told = words(section(OBSERVE, "Logger").astext())
    rows = {
        "warning": told[told.index("WARNING") : told.index("INFO")],
        "info": told[told.index("INFO") : told.index("DEBUG")],
    }
    assert [what for (_, level), what in LOGGED.items() if what not in rows[level]] == []


def test_every_field_of_a_line_is_documented() -> None:
    told = section(OBSERVE, "Logger").astext()
    assert [name for name in messages.FIELDS if name not in told] == []


@pytest.mark.parametrize("rule", RetryRule)
def test_every_rule_that_a_statement_runs_again_by_is_documented(rule: RetryRule) -> None:
    assert f'"{rule.value}"' in words(str(signals.StatementRetried.__doc__))
    assert f'"{rule.value}"' in words(page(OBSERVE).astext())


@pytest.mark.parametrize("record", RECORD_CLASSES, ids=lambda record: record.__name__)
def test_every_record_is_documented_field_by_field(record: Any) -> None:
    (title,) = [one for one in titles(OBSERVE) if one.endswith(f": {record.__name__}")]
    listed = listed_fields(section(OBSERVE, title))
    assert list(listed) == [field.name for field in fields(record)]
    assert isinstance(getattr(signals, title.partition(":")[0]), Signal)


def test_every_signal_is_documented() -> None:
    own = [name for name, one in vars(signals).items() if isinstance(one, Signal)]
    assert own
    for name in own:
        assert f"``{name}``" in (ROOT / OBSERVE).read_text(encoding="utf-8")


SENDING = re.compile(r"\bsend_robust$|^send$")


def test_every_argument_of_a_signal_is_documented() -> None:
    home = Path(str(django_resilient_pg.__file__)).parent
    given = {
        keyword.arg
        for path in home.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and any(SENDING.search(ast.unparse(one)) for one in (node.func, *node.args[:1]))
        for keyword in node.keywords
        if keyword.arg is not None
    }
    assert given == {"sender", "connection", "record", "request"}
    literals = {node.astext() for node in section(OBSERVE, "Signals").findall(NODES.literal)}
    assert given <= literals


def test_every_count_is_documented() -> None:
    counts = section(OBSERVE, "What the engine knows").findall(NODES.definition_list_item)
    assert [one[0].astext() for one in counts] == [field.name for field in fields(Stats)]


def test_every_reason_is_documented_with_its_text() -> None:
    rows = [row[:2] for row in table(section(OBSERVE, "Reasons"), "Name")]
    assert rows == [[reason.name, reason.text] for reason in Reason]
