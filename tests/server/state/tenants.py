"""Tenants in one database, each with a schema, rows and a setting of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from tests.engines import run

DATABASE = "tenants"
TENANTS = ("1", "2", "3")
POLICY = "tenant = current_setting('app.tenant', true)"
SCHEMA = [
    "CREATE TABLE public.thing (tenant text)",
    "INSERT INTO public.thing VALUES ('public')",
    *[
        sql
        for tenant in TENANTS
        for sql in (
            f"CREATE SCHEMA t{tenant} AUTHORIZATION app",
            f"CREATE TABLE t{tenant}.thing (tenant text)",
            f"INSERT INTO t{tenant}.thing VALUES ('{tenant}')",
        )
    ],
    "CREATE TABLE public.secret (id bigserial, tenant text DEFAULT current_setting('app.tenant'))",
    "INSERT INTO public.secret (tenant) VALUES ('1'), ('2'), ('3')",
    "ALTER TABLE public.secret ENABLE ROW LEVEL SECURITY",
    f"CREATE POLICY own ON public.secret USING ({POLICY}) WITH CHECK ({POLICY})",
    "GRANT ALL ON ALL TABLES IN SCHEMA public, t1, t2, t3 TO app",
    "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app",
]
Run = Callable[..., list[tuple[Any, ...]]]


def runner(connection: BaseDatabaseWrapper) -> Run:
    return partial(run, connection)
