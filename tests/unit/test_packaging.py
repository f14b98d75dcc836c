"""What the package says of itself, and what it leaves to those who develop it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
WHOLE: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = WHOLE["project"]
SITE = "https://django-resilient-pg.readthedocs.io/en/stable/"


def test_only_what_users_need_is_an_extra() -> None:
    drivers, exporters = {"psycopg", "psycopg2", "pool"}, {"prometheus", "opentelemetry"}
    assert set(PROJECT["optional-dependencies"]) == drivers | exporters
    assert set(WHOLE["dependency-groups"]) == {"demo", "docs", "test"}
    tox = WHOLE["tool"]["tox"]
    assert tox["env_run_base"]["dependency_groups"] == ["test"]
    extras = {extra for env in tox["env"].values() for extra in env.get("extras", ())}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_the_addresses_lead_to_pages_that_there_are() -> None:
    assert PROJECT["urls"]["Documentation"] == SITE
    for address in PROJECT["urls"].values():
        page = address.removeprefix(SITE).removesuffix(".html") or "index"
        assert (ROOT / "docs" / f"{page}.rst").exists(), address


def test_every_declared_python_has_an_environment() -> None:
    prefix = "Programming Language :: Python :: 3."
    declared = {
        one.removeprefix(prefix) for one in PROJECT["classifiers"] if one.startswith(prefix)
    }
    tested = re.findall(r"py3(\d+)-", " ".join(WHOLE["tool"]["tox"]["env"]))
    assert declared == set(tested) == {"11", "12", "13", "14"}
