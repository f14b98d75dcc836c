"""The table of providers: as the facts have it, and each recognised for what it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_resilient_pg.providers import (
    MARKERS,
    PROVIDERS,
    Provider,
    recognise_host,
    recognise_markers,
)

FACTS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "idle_timeouts.json").read_text(encoding="utf-8")
)
# Where the table says something else than the facts on record, and why, is said in the table.
NO_HOSTS = {"Aiven PgBouncer pools", "Timescale Cloud (Tiger) pooler", "Heroku Postgres"}
NARROWER = {"Fly Postgres (unmanaged, postgres-flex) HAProxy", "Aurora PostgreSQL"}
LOGIN_ONLY = "PostgreSQL: authentication_timeout"


@pytest.mark.parametrize(
    ("provider", "fact"),
    list(zip(PROVIDERS, FACTS, strict=True)),
    ids=[fact["name"] for fact in FACTS],
)
def test_table_says_what_the_facts_say(provider: Provider, fact: dict[str, Any]) -> None:
    assert (provider.name, provider.kind) == (fact["name"], fact["kind"])
    assert provider.keepalives_help == fact["keepalives_reset"]
    assert provider.max_lifetime == fact["max_lifetime_s"]
    idle = None if provider.name == LOGIN_ONLY else fact["idle_timeout_s"] or None
    assert provider.idle_timeout == idle
    detect = fact["detect"]
    assert provider.gucs == tuple(detect["gucs"])
    assert provider.functions == tuple(detect["functions"])
    if provider.name in NO_HOSTS:
        assert not provider.host_suffixes + provider.host_regexes
        return
    assert provider.host_suffixes == tuple(detect["host_suffixes"])
    if provider.name not in NARROWER:
        assert provider.host_regexes == tuple(detect["host_regex"])


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda p: p.name)
def test_entry_is_well_formed(provider: Provider) -> None:
    assert provider.kind in {"server", "pooler", "proxy", "cloud", "middlebox"}
    assert provider.source
    assert provider.connect_timeout == (40 if provider.scale_to_zero else 5)
    assert all(suffix.startswith(".") for suffix in provider.host_suffixes)
    for pattern in provider.host_regexes:
        re.compile(pattern)


def test_names_are_unique() -> None:
    assert len({provider.name for provider in PROVIDERS}) == len(PROVIDERS)


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [
        ("x.dsql.us-east-1.on.aws", None, "Amazon Aurora DSQL"),
        ("aws-0-eu-west-1.pooler.supabase.com", 6543, "Supavisor"),
        ("db.abcdefgh.supabase.co", 6543, "Supabase dedicated pooler (PgBouncer)"),
        ("db.abcdefgh.supabase.co", None, "Supabase direct"),
        ("p.proxy-abc123.eu-west-1.rds.amazonaws.com", 5432, "Amazon RDS Proxy"),
        ("p.endpoint.proxy-abc123.eu-west-1.rds.amazonaws.com", None, "Amazon RDS Proxy"),
        ("p.proxy-abc123.rds.cn-north-1.amazonaws.com.cn", None, "Amazon RDS Proxy"),
        ("db.abc123.eu-west-1.rds.amazonaws.com", None, "Amazon RDS for PostgreSQL"),
        ("db.cluster-abc123.eu-west-1.rds.amazonaws.com", None, "Aurora PostgreSQL"),
        ("db.cluster-ro-abc123.eu-west-1.rds.amazonaws.com", None, "Aurora PostgreSQL"),
        ("db.global-abc123.global.rds.amazonaws.com", None, "Aurora PostgreSQL"),
        (
            "x.postgres.database.azure.com",
            6432,
            "Azure Database for PostgreSQL built-in PgBouncer",
        ),
        (
            "x.postgres.database.azure.com",
            5432,
            "Azure Database for PostgreSQL - flexible server",
        ),
        ("x.privatelink.postgres.database.azure.com", None, "Azure Private Link service"),
        ("/cloudsql/p:r:i", None, "Cloud SQL Auth Proxy (v2) / AlloyDB Auth Proxy"),
        ("x.alloydb.goog", None, "AlloyDB for PostgreSQL"),
        ("ep-a-b-1-pooler.eu-central-1.aws.neon.tech", None, "Neon pooled endpoint"),
        ("ep-a-b-1-pooler.c-2.eu-central-1.aws.neon.tech", None, "Neon pooled endpoint"),
        ("ep-a-b-1.eu-central-1.aws.neon.tech", None, "Neon (direct endpoint)"),
        ("something.else.neon.tech", None, "Neon (direct endpoint)"),
        ("x.b.db.ondigitalocean.com", 25061, "DigitalOcean connection pool"),
        ("x.b.db.ondigitalocean.com", 25060, "DigitalOcean Managed PostgreSQL"),
        ("x.aivencloud.com", 12345, "Aiven for PostgreSQL"),
        ("p.x.db.postgresbridge.com", 5431, "Crunchy Bridge PgBouncer"),
        ("p.x.db.postgresbridge.com", None, "Crunchy Bridge"),
        ("x.y.tsdb.cloud.timescale.com", 30000, "Timescale / Tiger Cloud"),
        ("app-db.flycast", None, "Fly Postgres (unmanaged, postgres-flex) HAProxy"),
        (
            "top1.nearest.of.app-db.internal",
            5432,
            "Fly Postgres (unmanaged, postgres-flex) HAProxy",
        ),
        ("pgbouncer.abc.flympg.net", None, "Fly.io Managed Postgres (MPG)"),
        ("postgres.railway.internal", None, "Railway Postgres"),
        ("dpg-abc123-a.oregon-postgres.render.com", None, "Render Postgres"),
        ("dpg-abc123-a", None, "Render Postgres"),
        ("x.cockroachlabs.cloud", 26257, "CockroachDB Cloud"),
        ("x-1.elb.us-east-1.amazonaws.com", None, "AWS Network Load Balancer, TCP listener"),
        ("a1b2.awsglobalaccelerator.com", None, "AWS Global Accelerator"),
        (
            "vpce-1.vpce-svc-2.eu-west-1.vpce.amazonaws.com",
            None,
            "AWS Transit Gateway / PrivateLink endpoint",
        ),
        ("pg.tail1234.ts.net", None, "WireGuard / Tailscale"),
    ],
)
def test_recognised_by_host(host: str, port: int | None, name: str) -> None:
    for spelling in (host, f" {host.upper()}."):
        found = recognise_host(spelling, port)
        assert found is not None
        assert found.name == name


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "127.0.0.1",
        "::1",
        "/var/run/postgresql",
        "db.internal",
        "app-db.internal",
        "ec2-1-2-3-4.compute-1.amazonaws.com",
        "db.global-app.example.com",
        "neon.tech.example.com",
        "xneon.tech",
        "pgbouncer",
    ],
)
def test_nobody_is_recognised(host: str) -> None:
    assert recognise_host(host, None) is None


def test_port_decides_only_where_the_entry_names_one() -> None:
    assert recognise_host("app-db.flycast", 5433) is None
    assert recognise_host("x.neon.tech", 5433) == recognise_host("x.neon.tech", 5432)


@given(host=st.text(), port=st.none() | st.integers(0, 65535))
def test_any_host_gets_an_answer(host: str, port: int | None) -> None:
    found = recognise_host(host, port)
    assert found is None or found in PROVIDERS


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({"rds.extensions"}, "Amazon RDS for PostgreSQL"),
        ({"rds.extensions", "dbi_resource_id"}, "Amazon RDS for PostgreSQL"),
        (
            {"rds.extensions", "dbi_resource_id", "aurora_version", "aurora_replica_status"},
            "Aurora PostgreSQL",
        ),
        ({"neon.tenant_id", "neon.timeline_id"}, "Neon (direct endpoint)"),
        ({"azure.extensions"}, "Azure Database for PostgreSQL - flexible server"),
        ({"cloudsql.iam_authentication"}, "Google Cloud SQL for PostgreSQL"),
        ({"alloydb.iam_authentication"}, "AlloyDB for PostgreSQL"),
        ({"crdb_version"}, "CockroachDB (self-hosted)"),
        (set(), None),
        ({""}, None),
        ({"idle_session_timeout", "timescaledb.license", "something.else"}, None),
    ],
)
def test_recognised_by_markers(found: set[str], name: str | None) -> None:
    provider = recognise_markers(found)
    assert (provider.name if provider else None) == name


def test_markers_can_stand_in_a_statement_and_are_nobody_elses() -> None:
    for marker in MARKERS:
        assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", marker)
    assert not {"idle_session_timeout", "tcp_user_timeout"} & set(MARKERS)
