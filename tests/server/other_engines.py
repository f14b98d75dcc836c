"""A process of its own for engines that read their settings when they are imported."""

from __future__ import annotations

import json
from typing import Any

from testproject.postgres import Server
from tests.children import python
from tests.conftest import ROOT

PROJECT = ROOT / "tests" / "engines_project"
SCHEMA = [
    "CREATE TABLE public.thing (id bigserial, tenant text)",
    "INSERT INTO public.thing (tenant) VALUES ('public')",
    *[
        sql
        for tenant in ("t1", "t2")
        for sql in (
            f"CREATE SCHEMA {tenant}",
            f"CREATE TABLE {tenant}.thing (id bigserial, tenant text)",
            f"INSERT INTO {tenant}.thing (tenant) VALUES ('{tenant}')",
            f"ALTER SCHEMA {tenant} OWNER TO app",
            f"ALTER TABLE {tenant}.thing OWNER TO app",
        )
    ],
    "ALTER TABLE public.thing OWNER TO app",
]


def create(server: Server, database: str) -> None:
    """Make the database with the table "thing", in "public" and for each of two tenants."""
    server.drop_database(database)
    server.create_database(database)
    server.execute(";".join(SCHEMA), database=database)


def ask(
    server: Server, database: str, engine: str, settings: dict[str, Any], *command: str
) -> dict[str, Any]:
    """Run a module of the project with "default" on this engine; what it printed."""
    named = {"application_name": "under test"}
    databases = {
        "default": server.database(database, engine=engine, options=named, CONN_MAX_AGE=None),
        "admin": server.database(database, engine="django.db.backends.postgresql"),
    }
    environ = {
        "DJANGO_SETTINGS_MODULE": "settings",
        "ENGINES_SETTINGS": json.dumps({"DATABASES": databases, **settings}),
    }
    answer = python("-m", *command, cwd=PROJECT, before=PROJECT, environ=environ)
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found
