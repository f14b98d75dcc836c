"""Commands that Django lets pass without a database pass as fast with this engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.staticfiles.finders import BaseFinder
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections
from django.db.utils import ConnectionHandler
from django.test import override_settings

from testproject.cluster import free_port
from tests.children import python
from tests.engines import RESILIENT

pytestmark = pytest.mark.once_per_driver

DEADLINE = 5.0
#: Seconds that a command may take on a busy machine, without waiting for the database.
AT_ONCE = DEADLINE - 1.0


@pytest.fixture(autouse=True)
def nobody_listens() -> Iterator[None]:
    """ "default" leads to a port that nobody listens on."""
    options = {"resilience": {"retry_deadline": DEADLINE}}
    address = {"HOST": "127.0.0.1", "PORT": free_port(), "NAME": "app", "USER": "app"}
    entry: dict[str, Any] = {"ENGINE": RESILIENT, **address, "OPTIONS": options}
    before = connections.settings[DEFAULT_DB_ALIAS]
    _replace(ConnectionHandler({DEFAULT_DB_ALIAS: entry}).databases[DEFAULT_DB_ALIAS])
    yield
    _replace(before)


def _replace(entry: dict[str, Any]) -> None:
    with suppress(AttributeError):
        connections[DEFAULT_DB_ALIAS].close()
        del connections[DEFAULT_DB_ALIAS]
    connections.settings[DEFAULT_DB_ALIAS] = entry


def ask() -> None:
    with suppress(OperationalError), connections[DEFAULT_DB_ALIAS].cursor():
        pass


class Asking(BaseFinder):
    """As an app that has settings of its own in the database, and others without one."""

    def list(self, ignore_patterns: Any) -> Iterator[Any]:
        ask()
        return iter(())


def test_migrations_are_checked_with_a_warning() -> None:
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match="consistent migration history"), suppress(SystemExit):
        call_command("makemigrations", check_changes=True, dry_run=True, verbosity=0)
    assert time.monotonic() - began < AT_ONCE


def test_static_files_are_collected(tmp_path: Path) -> None:
    finders = [f"{__name__}.Asking"]
    installed = [*apps.app_configs, "django.contrib.staticfiles"]
    names = [apps.get_app_config(one).name if one in apps.app_configs else one for one in installed]
    began = time.monotonic()
    with override_settings(
        INSTALLED_APPS=names, STATICFILES_FINDERS=finders, STATIC_ROOT=tmp_path, STATIC_URL="s/"
    ):
        call_command("collectstatic", interactive=False, verbosity=0)
    assert time.monotonic() - began < AT_ONCE


LOADING = """
import time
from django.apps import AppConfig
from django.db import OperationalError, connection

class Config(AppConfig):
    name = "asking"

    def ready(self):
        began = time.monotonic()
        try:
            connection.ensure_connection()
        except OperationalError:
            print("seconds:", time.monotonic() - began)
"""
SETTINGS = f"""
SECRET_KEY = "for a test"
INSTALLED_APPS = ["asking.apps.Config", "django.contrib.staticfiles"]
STATIC_URL, STATIC_ROOT = "s/", "static"
DATABASES = {{"default": {{"ENGINE": {RESILIENT!r}, "HOST": "127.0.0.1", "PORT": %d, "NAME": "app",
    "USER": "app", "OPTIONS": {{"resilience": {{"retry_deadline": {DEADLINE}}}}}}}}}
"""


def test_apps_that_ask_while_they_are_loaded_do_not_keep_it_up(tmp_path: Path) -> None:
    (tmp_path / "asking").mkdir()
    (tmp_path / "asking" / "apps.py").write_text(LOADING)
    (tmp_path / "settings.py").write_text(SETTINGS % free_port())
    command = ("-W", "ignore", "-m", "django", "collectstatic", "--noinput")
    named = {"DJANGO_SETTINGS_MODULE": "settings"}
    done = python(*command, cwd=tmp_path, before=tmp_path, environ=named)
    assert done.returncode == 0, done.stderr
    [seconds] = [line for line in done.stdout.splitlines() if line.startswith("seconds:")]
    assert float(seconds.split()[1]) < AT_ONCE


class Other(BaseCommand):
    """A command of the project's own."""

    def handle(self, *args: Any, **options: Any) -> None:
        ask()


def test_other_commands_wait() -> None:
    began = time.monotonic()
    call_command(Other(), verbosity=0)
    assert time.monotonic() - began > DEADLINE / 2
