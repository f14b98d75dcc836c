"""docs/testing.rst, followed in a project of `django-admin startproject`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points

import pytest

from testproject.postgres import Server
from tests.conftest import ROOT
from tests.engines import RESILIENT, STOCK

pytestmark = pytest.mark.once_per_driver

Run = Callable[..., str]
PAGE = ROOT / "docs" / "testing.rst"
# What a reader's application has already.
MODELS = """
from django.db import models

class Order(models.Model):
    customer_id = models.IntegerField()
"""
URLS = """
from django.http import HttpResponse
from django.urls import path
from shop.models import Order

urlpatterns = [path("", lambda request: HttpResponse(Order.objects.count()))]
"""
SETTINGS = """
import os

INSTALLED_APPS += ["shop"]
DATABASES = {{"default": {entry!r}}}
DATABASES["default"]["ENGINE"] = os.environ["DATABASE_ENGINE"]
DATABASES["default"]["TEST"] = {{"NAME": "test_outage_" + os.environ["DATABASE_ENGINE"][:14]}}
"""


def snippets() -> dict[str, str]:
    """The files that the page shows."""
    found = re.findall(
        r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", PAGE.read_text("utf-8"), re.M
    )
    texts = map(textwrap.dedent, found)
    return {text.splitlines()[0].removeprefix("# "): text for text in texts}


@pytest.fixture(scope="module")
def run(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run Python in a new project that has the page's files, on an engine."""
    folder = tmp_path_factory.mktemp("project")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    environ.pop("DJANGO_SETTINGS_MODULE", None)

    def start(*command: str, engine: str = RESILIENT, status: int = 0) -> str:
        answer = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={**environ, "DATABASE_ENGINE": engine},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert answer.returncode == status, answer.stdout
        return answer.stdout

    start("-m", "django", "startproject", "site_of_mine", ".")
    start("manage.py", "startapp", "shop")
    (folder / "shop" / "models.py").write_text(MODELS)
    (folder / "site_of_mine" / "urls.py").write_text(URLS)
    with (folder / "site_of_mine" / "settings.py").open("a") as settings:
        settings.write(SETTINGS.format(entry=server.database()))
    (folder / "pytest.ini").write_text("[pytest]\nDJANGO_SETTINGS_MODULE = site_of_mine.settings\n")
    for name, code in snippets().items():
        (folder / name).write_text(code)
    server.execute(f"ALTER ROLE {server.user} CREATEDB")
    start("manage.py", "makemigrations", "shop")
    yield start
    server.execute(f"ALTER ROLE {server.user} NOCREATEDB")


def test_the_first_example_has_ten_lines() -> None:
    code = snippets()["shop/tests.py"]
    (of_test,) = re.findall(r"class OutageTests.*", code, re.S)
    lines = [line for line in code.splitlines()[1:] if line.strip()]
    assert len(lines) <= 10
    assert "self.outage.during" in of_test


def test_the_ten_lines_pass_with_this_engine_and_fail_with_the_stock_one(run: Run) -> None:
    said = run("manage.py", "test", "--noinput", "--parallel=2")
    assert re.search(r"Ran 4 tests[^\n]*\n\nOK", said), said
    said = run("manage.py", "test", "--noinput", "shop.tests", engine=STOCK, status=1)
    assert re.search(r"OperationalError.*FAILED \(errors=1\)", said, re.S), said


def test_pytest_has_the_fixture(run: Run) -> None:
    installed = entry_points(group="pytest11", name="resilient_pg")
    plugin = () if installed else ("-p", "django_resilient_pg.pytest_plugin")
    command = ("-m", "pytest", "-p", "no:cacheprovider", *plugin)
    assert "1 passed" in run(*command, "shop/test_outages.py")
    assert "1 failed" in run(*command, "shop/test_outages.py", engine=STOCK, status=1)
