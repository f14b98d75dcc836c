"""README.rst and docs/: links, commands, figures and the architecture lead to what there is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from django.core.management import get_commands

import django_resilient_pg
from benchmarks import healthy
from django_resilient_pg.driver import link
from django_resilient_pg.policy import verdicts
from django_resilient_pg.policy.verdicts import Failure, Phase
from django_resilient_pg.recovery import announce_loss
from tests.unit.pages import (
    BENCHMARKS,
    NODES,
    OPTIONS,
    PAGES,
    PROMISE,
    README,
    ROOT,
    SITE,
    blocks,
    page,
    project_table,
    section,
    table,
    titles,
    words,
)

pytestmark = pytest.mark.once
LATER = "Not in this version"


# -- all pages -------------------------------------------------------------------------------------


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
    extras = project_table()["optional-dependencies"]
    for extra in re.findall(r"django-resilient-pg\[(\w+)\]", text):
        assert extra in extras, f"{name}: extra {extra}"


def test_every_page_is_in_the_index() -> None:
    links = {node["refuri"] for node in page("docs/index.rst").findall(NODES.reference)}
    own = {Path(name).name for name in PAGES if name.startswith("docs/")} - {"index.rst"}
    assert own <= links


# -- README ----------------------------------------------------------------------------------------


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
    named = [classifier.rpartition(" :: ") for classifier in project_table()["classifiers"]]
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
        (needed,) = project_table()["optional-dependencies"][extra]
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
