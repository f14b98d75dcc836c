"""libpq parameters are added where the user has set none, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from django_resilient_pg.policy.lookup import Lookup, service_section
from django_resilient_pg.policy.parameters import additions

ALL = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30000,
}


def added(params: dict[str, object], environ: dict[str, str] | None = None) -> dict[str, object]:
    """What is added where there is no service file but the one in ``environ``."""
    nowhere = {"HOME": "/nonexistent", "PGSYSCONFDIR": "/nonexistent"}
    return additions(Lookup(params, nowhere | (environ or {})))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """An environment with both service files."""
    (tmp_path / ".pg_service.conf").write_text(
        "# comment\n"
        "[app2]\nhost=two\n"
        "  [app]  \n  host=db.example.com\nkeepalives_idle=60\nhost=second is ignored\n"
        "sslmode = spaced\nno equals sign\n\n# host=comment\n"
        "[app]\nport=1\n"
    )
    (tmp_path / "pg_service.conf").write_text("[system]\nconnect_timeout=7\n[app]\nport=2\n")
    return {"HOME": str(tmp_path), "PGSYSCONFDIR": str(tmp_path)}


def test_everything_is_added_over_tcp() -> None:
    assert added({"host": "db.example.com", "dbname": "app"}) == ALL


@pytest.mark.parametrize("name", list(ALL))
def test_what_is_given_is_left_alone(name: str) -> None:
    assert added({"host": "db", name: "77"}) == {k: v for k, v in ALL.items() if k != name}


def test_none_is_nothing_given() -> None:
    assert added({"host": "db", "keepalives": None}) == ALL


def test_a_falsy_value_is_given() -> None:
    assert "keepalives" not in added({"host": "db", "keepalives": 0})


def test_environment() -> None:
    assert "connect_timeout" not in added({"host": "db"}, {"PGCONNECT_TIMEOUT": "3"})
    # Not read by libpq, so not heeded here.
    assert added({"host": "db"}, {"PGKEEPALIVES": "0", "PGTCP_USER_TIMEOUT": "1"}) == ALL


@pytest.mark.parametrize(
    ("params", "environ"),
    [
        ({}, {}),
        ({"host": ""}, {"PGHOST": "db"}),
        ({"host": "/var/run/postgresql"}, {}),
        ({"host": "@abstract"}, {}),
        ({"host": "/run/a,/run/b"}, {}),
        ({"host": "/run/a,"}, {"PGHOST": "db"}),
        ({}, {"PGHOST": "/run"}),
        ({"host": "/run/a", "hostaddr": ","}, {}),
    ],
)
def test_no_tcp_parameters_on_a_unix_socket(
    params: dict[str, object], environ: dict[str, str]
) -> None:
    assert added(params, environ) == {"connect_timeout": 5}


@pytest.mark.parametrize(
    ("params", "environ"),
    [
        ({}, {"PGHOST": "db"}),
        ({}, {"PGHOSTADDR": "10.0.0.1"}),
        ({"hostaddr": "10.0.0.1"}, {}),
        ({"host": "/run/a,db"}, {}),
        ({"host": "/run/a", "hostaddr": ",10.0.0.1"}, {}),
        ({"host": "::1"}, {}),
    ],
)
def test_tcp_parameters_if_any_host_is_one(
    params: dict[str, object], environ: dict[str, str]
) -> None:
    assert added(params, environ) == ALL


@pytest.mark.parametrize("by", ["parameter", "environment"])
def test_service(by: str, files: dict[str, str]) -> None:
    params: dict[str, object] = {"service": "app"} if by == "parameter" else {}
    environ = files if by == "parameter" else files | {"PGSERVICE": "app"}
    assert added(params, environ) == {k: v for k, v in ALL.items() if k != "keepalives_idle"}


def test_service_comes_before_the_environment(files: dict[str, str]) -> None:
    assert "keepalives" in added({"service": "app"}, files | {"PGHOST": "/run"})
    assert "keepalives" not in added({"service": "app", "host": "/run"}, files)


def test_servicefile_parameter(tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_text("[app]\nhost=db\nkeepalives=0\n")
    found = added({"service": "app", "servicefile": str(file)}, {"PGSERVICEFILE": "/nonexistent"})
    assert found == {k: v for k, v in ALL.items() if k != "keepalives"}


def test_section_is_read_as_libpq_does(files: dict[str, str]) -> None:
    assert service_section("app", files) == {
        "host": "db.example.com",
        "keepalives_idle": "60",
        "sslmode ": " spaced",
    }


def test_section_of_the_system_if_the_user_has_none(files: dict[str, str]) -> None:
    assert service_section("system", files) == {"connect_timeout": "7"}


@pytest.mark.parametrize("name", ["missing", "ap", "app]", ""])
def test_no_section(name: str, files: dict[str, str]) -> None:
    assert service_section(name, files) is None


def test_an_empty_section_is_one(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("[app]\n# all of it comes from DATABASES\n")
    assert service_section("app", {"PGSERVICEFILE": str(tmp_path / "empty")}) == {}


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"[app\nhost=x"])
def test_file_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "service"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    environ = {"PGSERVICEFILE": str(file), "PGSYSCONFDIR": "/nonexistent"}
    assert service_section("app", environ) is None


@pytest.mark.parametrize(
    "params",
    [
        {"host": "ep-cool-name-123.eu-central-1.aws.neon.tech"},
        {"host": "10.0.0.1,ep-cool-name-123-pooler.eu-central-1.aws.neon.tech", "port": "5432"},
    ],
)
def test_a_server_that_may_sleep_gets_time_to_wake(params: dict[str, Any]) -> None:
    assert added(params)["connect_timeout"] == 40


def test_seconds_are_whole_for_libpq() -> None:
    assert type(added({"host": "db"})["connect_timeout"]) is int
