"""README.rst and the pages of docs/, parsed."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

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
QUIET = {"syntax_highlight": "none", "raw_enabled": False, "file_insertion_enabled": False}


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


@cache
def project_table() -> dict[str, Any]:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project: dict[str, Any] = whole["project"]
    return project
