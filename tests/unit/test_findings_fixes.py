"""What findings advise to set does not break what works, and once set leaves nothing to set."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_resilient_pg.diagnosis.findings import PREFIX, Level, findings
from django_resilient_pg.diagnosis.path.poolers import Pooler
from django_resilient_pg.diagnosis.report.details import details
from django_resilient_pg.diagnosis.report.fixes import merged
from django_resilient_pg.diagnosis.settings.hosts import Host
from django_resilient_pg.diagnosis.survey.survey import Survey
from tests.unit.finding_cases import CASES, Case
from tests.unit.surveys import (
    NEON,
    STOCK,
    UNVERIFIED,
    keepalives,
    known,
    numbers,
    provided,
    settled,
)

pytestmark = pytest.mark.once_per_driver


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_a_fix_names_settings(case: Case) -> None:
    for name, value in merged(findings(case.bad)).items():
        assert name.isupper()
        assert isinstance(value, Mapping) == (name == "OPTIONS")


def test_fixes_do_not_break_what_works() -> None:
    """Where the certificate cannot be verified, verify-full would end all connections."""
    sound = merged(findings(known(target={"sslmode": "prefer"})))
    assert sound == {"OPTIONS": {"sslmode": "verify-full"}}
    unverifiable = merged(findings(known(target={"sslmode": "prefer"}, tls=UNVERIFIED)))
    assert unverifiable == {"OPTIONS": {"sslmode": "require"}}


@pytest.mark.parametrize("libpq", [150000, 160000])
@pytest.mark.parametrize("file", ["/etc/ssl/certs/ca-certificates.crt", ""])
def test_without_a_file_of_authorities_the_fix_names_the_systems(
    libpq: int, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the word "system": a wheel's libpq looks in other places than this Python."""
    paths = ssl.get_default_verify_paths()._replace(cafile=file)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    full = {"sslmode": "verify-full", "sslrootcert": file} if file else {"sslmode": "require"}
    for mode in ("prefer", "require"):
        survey = known(target={"sslmode": mode, "sslrootcert": ""}, libpq=libpq)
        assert merged(findings(survey)) == ({"OPTIONS": full} if file or mode == "prefer" else {})
    # What of a folder vouches for the server is not known, and it cannot be named.
    monkeypatch.setenv("SSL_CERT_DIR", "/etc/own")
    survey = known(target={"sslmode": "prefer", "sslrootcert": ""}, libpq=libpq)
    assert merged(findings(survey)) == {"OPTIONS": {"sslmode": "require"}}


def test_a_standby_alone_is_not_given_up_for_nothing() -> None:
    alone, two = known(facts={"in_recovery": True}), (Host("a", "", 1), Host("b", "", 1))
    assert merged(findings(alone)) == {}
    several = known(facts={"in_recovery": True}, target={"hosts": two})
    assert merged(findings(several)) == {"OPTIONS": {"target_session_attrs": "read-write"}}


GIS = "django.contrib.gis.db.backends.postgis"
FOREIGN = "project.engine"


@pytest.mark.parametrize(
    ("engine", "ours"),
    [
        ("django.db.backends.postgresql", "django_resilient_pg"),
        (GIS, "django_resilient_pg.postgis"),
        (FOREIGN, None),
    ],
)
def test_the_engine_that_is_advised_can_do_what_the_present_one_does(
    engine: str, ours: str | None
) -> None:
    """An alias of GeoDjango would lose it; what a foreign engine does nobody knows."""
    own = {"resilient": False, "engine": engine, "conn_max_age": 600}
    refused = known(project={**own, "options": ("resilience",)})
    assert merged(findings(refused)) == ({"ENGINE": ours} if ours else {})
    impatient = known(project=own, facts={"idle_session_timeout": 300.0})
    (one,) = findings(impatient)
    assert one.id == "resilient_pg.W121"
    wanted = f"ENGINE to {ours}, which" if ours else "use this package's engine, which"
    assert wanted in one.hint


@pytest.mark.parametrize(
    ("driver", "endless"),
    [("psycopg 3.3.3, Django 6.1", False), ("psycopg2 2.9.10, Django 5.2", True)],
)
@pytest.mark.parametrize(
    ("host", "seconds"), [("db.example", 5), ("ep-cool-1.eu-central-1.aws.neon.tech", 40)]
)
def test_a_connect_timeout_is_long_enough_to_wake_a_server(
    driver: str, endless: bool, host: str, seconds: int
) -> None:
    """psycopg 3 gives up by itself (its own 130 s), psycopg2 does not."""
    for sources in ((), (("connect_timeout", "DATABASES"),)):
        target = {"connect_timeout": None, "hosts": (Host(host, "", 5432),), "sources": sources}
        (one,) = findings(known(target=target, driver=driver, connected=False))
        assert one.fix == {"OPTIONS": {"connect_timeout": seconds}}
        assert f"connect_timeout to {seconds} (" in one.hint
        assert one.message.startswith(f"connect_timeout is {'0' if sources else 'not set'}: ")
        assert ("or forever" in one.message) is endless
        took = dict(details(known(target=target, driver=driver)))["connect timeout"]
        assert took == ("none" if endless else "130 s (psycopg's default)")


def test_one_report_does_not_contradict_itself() -> None:
    """One age, and none under ASGI, where checking what is not kept would be for nothing."""
    off: dict[str, Any] = {"socket": keepalives(keepalives=False)}
    kept, ten = {**STOCK, "conn_max_age": None}, {"idle_session_timeout": 10.0}
    short = known(project=kept, facts=ten, **off)
    ages = {one.id[-4:]: one.fix.get("CONN_MAX_AGE") for one in findings(short)}
    assert ages == {"W101": None, "W121": 5, "W122": 5}
    asgi = known(project={**kept, "serving": "ASGI", "health_checks": False}, **off)
    ages = {one.id[-4:]: one.fix.get("CONN_MAX_AGE") for one in findings(asgi)}
    assert ages == {"W101": None, "W122": 0, "W124": 0}
    vain = {**STOCK, "conn_max_age": 900, "serving": "ASGI"}
    assert (
        "or less"
        in {one.id[-4:]: one.hint for one in findings(known(project=vain, facts=NEON))}["W104"]
    )


def test_what_dies_within_two_seconds_is_not_kept() -> None:
    project = {**STOCK, "conn_max_age": 0}
    assert numbers(findings(known(project=project, facts={"idle_session_timeout": 1.5}))) == []
    assert numbers(findings(known(project=project, facts={"idle_session_timeout": 4}))) == ["I223"]


def test_the_pool_of_this_engine_is_not_advised_against() -> None:
    (one,) = findings(known(project={**STOCK, "pool": {}, "conn_max_age": 0}))
    assert one.id == "resilient_pg.W126"
    assert "use this package's engine, whose pool checks" in one.hint


AURORA = provided("shop.cluster-abc123.eu-central-1.rds.amazonaws.com")
POOL: dict[str, Any] = {
    "min_size": st.integers(0, 4),
    "max_size": st.integers(4, 8),
    "max_idle": st.floats(0.5, 2000),
}
_LIFETIMES = {f"{PREFIX}W12{number}" for number in "1245"} | {f"{PREFIX}{n}" for n in ("W146",)}
_SETTLING = _LIFETIMES | {f"{PREFIX}{number}" for number in ("W101", "W104", "W126", "W127")}
_IDLE: dict[str, Any] = {"facts": {"idle_session_timeout": 30.0}}
_ROWS = [case.bad for case in CASES] + [
    known(project={**STOCK, "conn_max_age": 0}, **_IDLE),
    known(project={**STOCK, "conn_max_age": 600, "serving": "ASGI"}, **_IDLE),
    known(project={**STOCK, "conn_max_age": 0, "health_checks": False}, facts=NEON),
    known(project={**STOCK, "conn_max_age": 900, "serving": "ASGI"}, facts=NEON),
    known(project={**STOCK, "conn_max_age": 60, "health_checks": False}, facts=NEON),
    known(project={**STOCK, "conn_max_age": None, "health_checks": False}, facts=NEON),
    known(project={**STOCK, "conn_max_age": 0, "pool": {}}, facts=NEON),
]


@pytest.mark.parametrize("survey", _ROWS)
def test_settings_to_paste_settle(survey: Survey) -> None:
    """Once pasted, nothing is left that the next paste would change, nor anything new."""
    fix = merged(findings(survey))
    again = findings(settled(survey, fix))
    left = [one for one in again if one.id in _LIFETIMES and one.level >= Level.WARNING]
    assert left == [], fix
    if survey.project.pool is not None:
        assert fix.get("CONN_MAX_AGE", 0) == 0  # Django refuses both together


@given(
    age=st.one_of(st.none(), st.just(0), st.floats(0.5, 4000), st.integers(1, 4000)),
    checks=st.booleans(),
    pool=st.one_of(st.none(), st.fixed_dictionaries({}, optional=POOL)),
    serving=st.sampled_from(["ASGI", "WSGI", "unknown"]),
    resilient=st.booleans(),
    session=st.one_of(st.none(), st.floats(0.5, 4000)),
    pooler=st.one_of(st.none(), st.floats(0.5, 4000)),
    provider=st.sampled_from([{}, NEON, AURORA]),
    on=st.booleans(),
)
@hypothesis_settings(max_examples=300, deadline=None)
def test_lifetimes_settle_whatever_they_are(
    age: float | None,
    checks: bool,
    pool: dict[str, Any] | None,
    serving: str,
    resilient: bool,
    session: float | None,
    pooler: float | None,
    provider: dict[str, Any],
    on: bool,
) -> None:
    """One age for all findings, which none of them minds."""
    project = {
        **({} if resilient else STOCK),
        "conn_max_age": 0 if pool is not None else age,
        "health_checks": checks,
        "pool": pool,
        "serving": serving,
    }
    survey = known(
        project=project,
        facts={"idle_session_timeout": session, **provider},
        pooler=Pooler("session", "It says so.", "", pooler) if pooler else None,
        socket=keepalives(keepalives=on),
        asked={"keepalives": int(on)},
    )
    fix = merged(findings(survey))
    left = findings(settled(survey, fix))
    assert [one for one in left if one.id in _SETTLING and one.level >= Level.WARNING] == [], fix
    if pool is not None:
        assert fix.get("CONN_MAX_AGE", 0) == 0  # Django refuses both together
        assert {**pool, **fix.get("OPTIONS", {}).get("pool", {})}.get("max_size", 1) > 0


def test_a_replicas_reads_are_not_sent_to_the_primary() -> None:
    two = {"hosts": (Host("a", "", 1), Host("b", "", 1))}
    for alias, routed, wanted in (
        ("replica", True, "prefer-standby"),
        ("replica", False, "read-write"),
        ("default", True, "read-write"),
    ):
        fix = merged(findings(known(target=two, project={"routed": routed}, alias=alias)))
        assert fix == {"OPTIONS": {"target_session_attrs": wanted}}
