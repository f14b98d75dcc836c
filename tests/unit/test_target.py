"""Where an alias connects: parameters, service file, environment and defaults as libpq has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.db.utils import ConnectionHandler

from django_resilient_pg.diagnosis.settings.hosts import Host
from django_resilient_pg.diagnosis.settings.target import MODES, SYSTEM, Target, target
from tests.engines import RESILIENT

pytestmark = pytest.mark.once_per_driver


def at(home: Path, environ: dict[str, str] | None = None, /, **params: object) -> Target:
    """The target of these parameters, in an environment with nothing else in it."""
    return target("default", params, {"HOME": str(home), **(environ or {})})


def test_a_plain_entry(tmp_path: Path) -> None:
    found = at(tmp_path, host="db.example", port="6432", user="app", dbname="shop")
    assert found.hosts == (Host("db.example", "", 6432),)
    assert (found.user, found.database, found.sslmode) == ("app", "shop", "prefer")
    assert found.connect_timeout is None
    assert found.source("sslmode") == "libpq's default"
    assert found.source("host") == "DATABASES"
    assert not found.problems


def test_parameter_before_service_before_environment(tmp_path: Path) -> None:
    file = tmp_path / "services"
    file.write_text("[shop]\nhost=from-service\nport=7000\nuser=from-service\n")
    environ = {
        "PGSERVICE": "shop",
        "PGSERVICEFILE": str(file),
        "PGUSER": "from-environment",
        "PGPORT": "1",
        "PGDATABASE": "from-environment",
    }
    found = at(tmp_path, environ, port=8000)
    assert found.hosts == (Host("from-service", "", 8000),)
    assert (found.user, found.database) == ("from-service", "from-environment")
    assert found.source("host") == 'the service "shop"'
    assert found.source("dbname") == "the environment variable PGDATABASE"
    assert found.service == "shop"


def test_the_real_engines_parameters(tmp_path: Path) -> None:
    """Neither Django's own keys nor secrets get into a target."""
    entry = {"ENGINE": RESILIENT, "NAME": "app", "HOST": "127.0.0.1", "PORT": "1"}
    handler = ConnectionHandler({"default": entry})
    params = handler["default"].get_connection_params()
    found = target("default", {**params, "password": "much-too-secret"}, {})
    assert [str(host) for host in found.hosts] == ["127.0.0.1:1"]
    assert "much-too-secret" not in repr(found)


PEM = "-----BEGIN PRIVATE KEY-----\nmuch-too-secret\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("params", "hosts"),
    [
        ({}, (Host("", "", 5432),)),
        ({"host": "/run/pg", "port": 5433}, (Host("/run/pg", "", 5433),)),
        ({"host": "a,b"}, (Host("a", "", 5432), Host("b", "", 5432))),
        ({"host": "a,b", "port": "1,2"}, (Host("a", "", 1), Host("b", "", 2))),
        ({"host": "a,b", "port": "1,"}, (Host("a", "", 1), Host("b", "", 5432))),
        ({"host": "a", "hostaddr": "::1"}, (Host("a", "::1", 5432),)),
        ({"host": "a,b", "port": " 1,2 \n"}, (Host("a", "", 1), Host("b", "", 2))),
        ({"host": "/" + 92 * "a"}, (Host("/" + 92 * "a", "", 5432),)),
        ({"hostaddr": "::1,127.0.0.1"}, (Host("", "::1", 5432), Host("", "127.0.0.1", 5432))),
    ],
)
def test_hosts(tmp_path: Path, params: dict[str, object], hosts: tuple[Host, ...]) -> None:
    found = at(tmp_path, **params)
    assert found.hosts == hosts
    assert not found.problems


@pytest.mark.parametrize(
    ("host", "unix"),
    [
        (Host("", "", 1), True),
        (Host("/run", "", 1), True),
        (Host("@name", "", 1), True),
        (Host("db", "", 1), False),
        (Host("/run", "127.0.0.1", 1), False),
    ],
)
def test_which_hosts_are_unix_sockets(host: Host, unix: bool) -> None:
    assert host.unix is unix


@pytest.mark.parametrize(
    ("params", "part"),
    [
        ({"port": "abc"}, 'port "abc" is not a number from 1 to 65535'),
        ({"port": "70000"}, 'port "70000"'),
        ({"host": "a,b", "port": "1,2,3"}, "3 ports do not match 2 hosts"),
        ({"host": "a,b", "hostaddr": "::1"}, "2 host names do not match 1 addresses"),
        ({"sslmode": "verify_full"}, 'did you mean "verify-full"?'),
        ({"sslnegotiation": "drect"}, 'did you mean "direct"?'),
        # Nothing is near: no guess.
        (
            {"sslmode": "bogus"},
            "use one of disable, allow, prefer, require,",
        ),
        ({"connect_timeout": "5s"}, 'connect_timeout is "5s"'),
        ({"service": "nowhere"}, 'service "nowhere" is in no service file'),
        ({"dbname": "postgres://app:much-too-secret@db/shop"}, "NAME is a URL"),
        ({"user": "postgres://app:much-too-secret@db/shop"}, "USER is a URL"),
        ({"user": "app:much-too-secret@db"}, "USER holds a password"),
        ({"host": "postgres://app:much-too-secret@db/shop"}, "HOST is a URL"),
        ({"host": "app:much-too-secret@db"}, "HOST holds a password"),
        ({"host": "app@db"}, 'HOST has "@" in it'),
        ({"host": "db/shop"}, 'HOST has "/" in it'),
        ({"host": "a,db shop"}, "HOST has a space in it"),
        ({"host": "db:5432"}, 'HOST has ":" in it'),
        ({"host": "[::1]"}, "HOST has brackets in it: write the address without them."),
        ({"host": "db,[::1]:5432"}, "HOST has brackets in it"),
        ({"host": "/run/pg\0much-too-secret"}, "HOST has a NUL character in it"),
        ({"host": "/" + 93 * "a"}, "is 108 bytes long, a Unix socket's path may have 107."),
        ({"host": "/" + 47 * "\N{SNOWMAN}"}, "is 156 bytes long"),
        ({"host": "db", "port": " "}, "PORT is not a number from 1 to 65535."),
        ({"host": "db", "port": "\u0665\u0664"}, "is not a number from 1 to 65535."),
        ({"dbname": "shop;Pwd=much-too-secret"}, "NAME holds a connection string"),
        ({"sslkey": PEM}, "sslkey holds a key or certificate itself: write it to a file (mode"),
        ({"sslrootcert": PEM}, "sslrootcert holds a key or certificate itself"),
        ({"hostaddr": "app@db"}, 'hostaddr has "@" in it'),
        ({"port": "5432/shop?password=much-too-secret"}, "PORT holds a connection string"),
        ({"port": "much-too-secret"}, "PORT is not a number from 1 to 65535."),
        ({"dbname": "dbname=shop password=much-too-secret"}, "NAME holds a connection string"),
        ({"sslmode": "require password=much-too-secret"}, "sslmode holds a connection string"),
        ({"service": "postgres://app:much-too-secret@db"}, "service is a URL"),
        ({"sslrootcert": "password=much-too-secret"}, "sslrootcert holds a connection string"),
    ],
)
def test_what_makes_no_sense_is_told(tmp_path: Path, params: dict[str, object], part: str) -> None:
    found = at(tmp_path, **params)
    assert part in " ".join(found.problems)
    assert "much-too-secret" not in repr(found)


SERVICE = "[shop]\nhost=db\nport=x5432\nconnect_timeout=soon\nkeepalives_idle=2h\n"


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({"PGCONNECT_TIMEOUT": "x"}, ["(from the environment variable PGCONNECT_TIMEOUT): libpq"]),
        (
            {"PGHOST": "postgres://app:much-too-secret@db/shop"},
            ["HOST (from the environment variable PGHOST) is a URL"],
        ),
        (
            {"PGHOST": "a,b", "PGPORT": "1,2,3"},
            [
                "3 ports (from the environment variable PGPORT) do not match 2 hosts (from the"
                " environment variable PGHOST)"
            ],
        ),
        ({"PGSERVICE": "no"}, ['"no" (from the environment variable PGSERVICE) is in no']),
        (
            {"PGSERVICE": "shop"},
            [
                'The port "x5432" (from the service "shop") is not a number',
                'connect_timeout is "soon" (from the service "shop")',
                'keepalives_idle is "2h" (from the service "shop")',
            ],
        ),
    ],
)
def test_what_is_wrong_elsewhere_is_told_with_its_place(
    tmp_path: Path, environ: dict[str, str], parts: list[str]
) -> None:
    file = tmp_path / "services"
    file.write_text(SERVICE)
    found = at(tmp_path, {**environ, "PGSERVICEFILE": str(file)})
    told = " ".join(found.problems)
    assert [part for part in parts if part not in told] == []
    assert "much-too-secret" not in repr(found)
    assert found.advice == "Correct it there."


def test_what_is_wrong_in_the_entry_is_corrected_there(tmp_path: Path) -> None:
    found = at(tmp_path, {"PGSSLMODE": "require"}, port="abc")
    assert found.advice == "Correct this entry of DATABASES."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keepalives", True),
        ("keepalives_idle", "abc"),
        ("keepalives_idle", 20.5),
        ("keepalives_interval", "1_000"),
        ("tcp_user_timeout", "30s"),
        ("tcp_user_timeout", 30000.0),
        ("connect_timeout", "5s"),
        ("connect_timeout", "5.0"),
        ("keepalives", ""),
        ("tcp_user_timeout", " "),
        ("keepalives_count", "\u0665"),
        ("keepalives_idle", 2**31),
        ("tcp_user_timeout", -(2**31) - 1),
        pytest.param("tcp_user_timeout", "9" * 5000, id="endless"),
    ],
)
def test_a_number_that_libpq_refuses_is_told(tmp_path: Path, name: str, value: object) -> None:
    found = at(tmp_path, host="db", **{name: value})
    (problem,) = found.problems
    assert problem.startswith(f'{name} is "{value}": libpq takes ')
    assert found.garbled == (name,)


@pytest.mark.parametrize(
    "params",
    [
        {"host": "/run/pg", "keepalives_idle": "abc"},
        {"host": "db", "keepalives": "0", "tcp_user_timeout": "30s"},
        {"host": "db", "keepalives": 1, "keepalives_idle": " +20 ", "keepalives_count": -1},
    ],
)
def test_a_number_that_libpq_takes_or_does_not_read_is_not(
    tmp_path: Path, params: dict[str, object]
) -> None:
    assert at(tmp_path, **params).problems == ()


@pytest.mark.parametrize(
    "params",
    [
        {"host": "@abstract", "port": 1},
        {"host": "/run/a folder", "port": 1},
        {"host": "fe80::1%eth0,::1", "port": 1},
        {"host": "127.0.0.1", "user": "app@server", "dbname": "a:b"},
        {"host": "db", "dbname": "a=b", "sslcert": "/a b/c"},
    ],
)
def test_unusual_names_are_not_taken_for_secrets(tmp_path: Path, params: dict[str, object]) -> None:
    found = at(tmp_path, **params)
    assert not found.problems
    assert [host.name for host in found.hosts] == str(params["host"]).split(",")
    assert found.user == params.get("user", found.user)
    assert found.database == params.get("dbname", found.user)


@pytest.mark.parametrize(
    ("given", "seconds"), [("5", 5.0), (7, 7.0), ("0", None), ("-1", None), (" 5 ", 5.0)]
)
def test_connect_timeout(tmp_path: Path, given: object, seconds: float | None) -> None:
    found = at(tmp_path, connect_timeout=given)
    assert found.connect_timeout == seconds
    assert not found.problems


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(5.0, 5.0), ("2.5", 2.5), ("1e1", 10.0), (10**10, 1e10), ("0.4", None), ("-1.5", None)],
)
def test_connect_timeout_as_psycopg_3_reads_it(given: object, seconds: float | None) -> None:
    found = target("default", {"host": "db", "connect_timeout": given}, {}, psycopg3=True)
    assert found.connect_timeout == seconds
    assert not found.problems


@pytest.mark.parametrize("given", ["", "5s", "nan", float("inf"), True, "0x10"])
def test_connect_timeout_that_psycopg_3_refuses(given: object) -> None:
    found = target("default", {"host": "db", "connect_timeout": given}, {}, psycopg3=True)
    assert found.garbled == ("connect_timeout",)


def test_a_port_that_psycopg_3_does_not_take() -> None:
    """It looks names up itself, and addresses not at all."""

    def problems(**params: str) -> tuple[str, ...]:
        return target("default", params, {}, psycopg3=True).problems

    wrong = "PORT ends in white space, which psycopg 3 does not take."
    assert problems(host="db,::1", port="5432 ") == (wrong,)
    assert problems(host="db", port=" 5432") == ()
    for params in ({"host": "fe80::1%eth0"}, {"host": "/run"}, {"hostaddr": "::1", "host": "db"}):
        assert problems(port="5432 ", **params) == ()


def test_a_number_that_is_too_large_is_told_so(tmp_path: Path) -> None:
    (problem,) = at(tmp_path, host="db", tcp_user_timeout=10**10).problems
    assert problem.endswith("takes whole milliseconds, for example 30000, 2147483647 at most.")


def test_an_empty_section_of_a_service_file_is_one(tmp_path: Path) -> None:
    (tmp_path / ".pg_service.conf").write_text("[shop]\n# all of it comes from DATABASES\n")
    assert at(tmp_path, host="db", service="shop").problems == ()


def test_a_password_behind_the_user_is_hidden(tmp_path: Path) -> None:
    """ ":" is legal in the name of a role."""
    found = at(tmp_path, host="db", user="app:much-too-secret")
    assert not found.problems
    assert (found.user, found.database) == ("app:***", "app:***")
    again = found.logged_in("app:much-too-secret", "app:much-too-secret")
    assert again == found
    assert "much-too-secret" not in repr(found.logged_in("you:much-too-secret", "shop"))


def test_sslmode_in_force(tmp_path: Path) -> None:
    assert at(tmp_path, sslrootcert=SYSTEM).sslmode == "verify-full"
    assert at(tmp_path, {"PGREQUIRESSL": "1"}).sslmode == "require"
    assert at(tmp_path, {"PGREQUIRESSL": "1", "PGSSLMODE": "allow"}).sslmode == "allow"
    needing = [mode for mode in MODES if at(tmp_path, sslmode=mode).needs_tls]
    assert needing == ["require", "verify-ca", "verify-full"]


def test_authorities_to_trust(tmp_path: Path) -> None:
    """libpq reads ~/.postgresql/root.crt wherever it exists, whatever the mode."""
    assert at(tmp_path).trust == SYSTEM
    assert at(tmp_path, sslrootcert="/etc/ca.pem").trust == "/etc/ca.pem"
    usual = tmp_path / ".postgresql" / "root.crt"
    usual.parent.mkdir()
    usual.touch()
    assert at(tmp_path).trust == at(tmp_path).root_file == str(usual)
    assert at(tmp_path, sslrootcert=SYSTEM).trust == SYSTEM


def test_an_account_without_user_setting_is_libpqs_default(tmp_path: Path) -> None:
    found = at(tmp_path)
    assert found.user == found.database != ""
