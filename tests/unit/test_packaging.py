"""What the package says of itself, and what it leaves to those who develop it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import django_resilient_pg
from django_resilient_pg import signals, verdicts
from scripts import release
from tests.unit.pages import page, section, table, titles

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
WHOLE: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = WHOLE["project"]
SITE = "https://django-resilient-pg.readthedocs.io/en/stable/"


def test_only_what_users_need_is_an_extra() -> None:
    drivers, exporters = {"psycopg", "psycopg2", "pool"}, {"prometheus", "opentelemetry"}
    assert set(PROJECT["optional-dependencies"]) == drivers | exporters
    assert set(WHOLE["dependency-groups"]) == {"demo", "docs", "release", "test"}
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


# -- the version ------------------------------------------------------------------------------


VERSION = django_resilient_pg.__version__
MINOR, MAJOR = VERSION.rpartition(".")[0], int(VERSION.partition(".")[0])


def test_the_version_is_written_once() -> None:
    """Everything else asks the package, or says which minor version it is about.

    The page of figures has the version that they were measured with, whichever that was.
    """
    assert PROJECT["dynamic"] == ["version"]
    assert WHOLE["tool"]["hatch"]["version"]["path"] == "django_resilient_pg/__init__.py"
    written = [
        path.relative_to(ROOT).as_posix()
        for folder in ("django_resilient_pg", "docs", "scripts", "testproject")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".rst"} and path != ROOT / "docs" / "benchmarks.rst"
        if re.search(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])", path.read_text("utf-8"))
    ]
    assert written == ["django_resilient_pg/__init__.py"]


def test_the_changelog_says_when_each_version_was_released() -> None:
    versions = [one for one in titles("CHANGELOG.rst") if one[0].isdigit()]
    assert re.fullmatch(rf"{re.escape(VERSION)} \(\d{{4}}-\d\d-\d\d\)", versions[0])
    assert [one.partition(" ")[0] for one in versions[1:]] == ["0.1.0"]


def test_a_stable_version_calls_itself_stable() -> None:
    assert ("Development Status :: 5 - Production/Stable" in PROJECT["classifiers"]) == (MAJOR > 0)


def test_what_is_said_of_support_is_about_this_version() -> None:
    rows = re.findall(r"^\| (\d\.\d) \| (\w+)", (ROOT / "SECURITY.md").read_text("utf-8"), re.M)
    assert rows == [(MINOR, "yes"), ("0.1", "no")]
    assert "Before 1.0" not in page("docs/support.rst").astext()
    assert "From 0.1" in titles("docs/upgrade.rst")


def test_a_former_name_works_and_says_what_to_use_instead() -> None:
    with pytest.warns(DeprecationWarning, match="Import Reason from django_resilient_pg.signals"):
        assert verdicts.Reason is signals.Reason
    with pytest.raises(AttributeError, match="no attribute 'Raisin'"):
        verdicts.Raisin  # noqa: B018
    rows = dict(table(section("docs/upgrade.rst", "From 0.1"), "If you use"))
    former = "django_resilient_pg.verdicts.Reason", "resilience.stats.refused"
    assert all(f"works until {MAJOR + 1}.0" in rows[name] for name in former)


def test_tests_of_the_wheel_refuse_the_source_tree() -> None:
    """tox sets TEST_INSTALLED; PYTHONPATH is what could put the tree before the wheel."""
    environ = {**os.environ, "TEST_INSTALLED": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/unit/test_names.py"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"the source tree is tested ({ROOT / release.PACKAGE})" in done.stderr


# -- what `make release` refuses --------------------------------------------------------------


TRACKED = [f"{release.PACKAGE}/{name}" for name in ("__init__.py", *release.DATA)]
ABOUT = [f"x-1.dist-info/{name}" for name in release.ABOUT]


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        ([*TRACKED, *ABOUT], []),
        ([*TRACKED[:-1], *ABOUT], [f"missing: {TRACKED[-1]}"]),
        ([*TRACKED, *ABOUT, "tests/conftest.py"], ["too much: tests/conftest.py"]),
        ([*TRACKED, *ABOUT, "testproject/settings.py"], ["too much: testproject/settings.py"]),
        ([*TRACKED, *ABOUT[:-2], ABOUT[-1]], [".dist-info: licenses/LICENSE"]),
    ],
)
def test_a_wheel_has_the_files_of_the_package_and_no_other(
    names: list[str], wrong: list[str]
) -> None:
    assert release.wrong_files(names, TRACKED) == wrong


def test_a_file_that_the_package_reads_cannot_leave_the_repository_unnoticed() -> None:
    names = [*TRACKED[:-1], *ABOUT]
    assert release.wrong_files(names, TRACKED[:-1]) == [f"missing: {TRACKED[-1]}"]
    home = Path(str(django_resilient_pg.__file__)).parent
    read = {
        path.relative_to(home).as_posix()
        for path in home.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert read == set(release.DATA)


def metadata(**changed: str) -> str:
    lines = {
        "Version": [VERSION],
        "Project-URL": [f"{name}, {url}" for name, url in PROJECT["urls"].items()],
        "Classifier": sorted(PROJECT["classifiers"]),
        "Provides-Extra": list(PROJECT["optional-dependencies"]),
        "Requires-Python": [PROJECT["requires-python"]],
        "License-Expression": [PROJECT["license"]],
    }
    lines |= {name.replace("_", "-"): [value] for name, value in changed.items()}
    head = [f"{name}: {value}" for name, values in lines.items() for value in values]
    return "\n".join([*head, "", "What it is."])


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"Version": "0.0"},
        {"Project_URL": "Homepage, https://example.org/"},
        {"Classifier": "Development Status :: 4 - Beta"},
        {"Provides_Extra": "test"},
        {"Requires_Python": ">=3.8"},
        {"License_Expression": "MIT"},
    ],
)
def test_a_wheel_says_what_the_project_says(changed: dict[str, str]) -> None:
    wrong = [name.replace("_", "-") for name in changed]
    assert release.wrong_metadata(metadata(**changed), PROJECT, VERSION) == wrong


def test_an_sbom_has_every_requirement_with_its_version() -> None:
    names = ["Django", "tenacity", "psycopg", "psycopg2_binary", "prometheus_client"]
    components = [{"name": one, "version": "1"} for one in [*names, "opentelemetry-api"]]
    assert release.wrong_bill({"components": components}, PROJECT) == []
    components[0] = {"name": "Django"}
    wrong = release.wrong_bill({"components": components[:-1]}, PROJECT)
    assert wrong == ["missing: opentelemetry-api", "without a version: django"]
