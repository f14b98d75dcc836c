"""The engine's packages have the modules that Django's have, and a path that says "postgresql".

Other packages build their names: ``import_module(ENGINE + ".introspection")``, or look for
"postgresql" in ``ENGINE``.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
from django.db.backends import postgresql
from django.db.utils import load_backend

from django_resilient_pg.state.aliases import is_ours
from tests.engines import Connections

SHORT = "django_resilient_pg"
LONG = "django_resilient_pg.postgresql"
GIS = "django_resilient_pg.postgis"
ENGINES = pytest.mark.parametrize(
    "engine", [SHORT, LONG, pytest.param(GIS, marks=pytest.mark.needs("GDAL", "GEOS"))]
)
STOCK = "django.db.backends.postgresql"
MODULES = [found.name for found in pkgutil.iter_modules(postgresql.__path__)]
# The others need Django's apps to be loaded, as GeoDjango's own do.
OF_GIS = ["client", "creation", "features", "introspection", "schema"]
#: What a wrapper makes of each, by the name of its attribute.
PARTS = {
    "client": "client_class",
    "creation": "creation_class",
    "features": "features_class",
    "introspection": "introspection_class",
    "operations": "ops_class",
    "schema": "SchemaEditorClass",
}
# Each in a process of its own: on Django 6.1 some of Django's cannot be imported before "base".
# What all of them need is imported once, before.
EACH_FIRST = """
import importlib, os, sys
import django.db.models
assert "django.db.backends.postgresql" not in sys.modules
for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(name)
        os._exit(0)
    _, status = os.wait()
    if status:
        sys.exit(f"{name} cannot be imported first")
"""


@ENGINES
def test_each_module_can_be_imported_before_all_others(engine: str) -> None:
    names = [f"{engine}.{name}" for name in (OF_GIS if engine == GIS else MODULES)]
    done = subprocess.run(
        [sys.executable, "-c", EACH_FIRST, *names],
        env={"PYTHONPATH": ":".join(sys.path), "DJANGO_SETTINGS_MODULE": "testproject.settings"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@ENGINES
@pytest.mark.parametrize("name", PARTS)
def test_a_module_has_what_the_engine_uses(engine: str, name: str) -> None:
    used = getattr(load_backend(engine).DatabaseWrapper, PARTS[name])
    assert getattr(import_module(f"{engine}.{name}"), used.__name__) is used


@pytest.mark.parametrize("engine", [SHORT, LONG])
@pytest.mark.parametrize("name", [name for name in MODULES if name != "base"])
def test_a_module_has_all_that_djangos_has(engine: str, name: str) -> None:
    theirs, ours = import_module(f"{STOCK}.{name}"), import_module(f"{engine}.{name}")
    public = getattr(theirs, "__all__", [each for each in vars(theirs) if each[0] != "_"])
    assert [each for each in public if getattr(ours, each, None) is not getattr(theirs, each)] == []


def test_both_paths_are_one_engine() -> None:
    short, long = load_backend(SHORT), load_backend(LONG)
    assert long.DatabaseWrapper is short.DatabaseWrapper


@pytest.mark.parametrize("engine", [SHORT, LONG])
def test_the_engine_is_known_by_either(engine: str) -> None:
    made = Connections(None)  # type: ignore[arg-type]
    entry: dict[str, Any] = {"ENGINE": engine, "NAME": "nowhere", "HOST": "127.0.0.1"}
    try:
        assert is_ours(made.register("either", entry))
    finally:
        made.close()
