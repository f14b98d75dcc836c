"""The way to a session, broken at every stage: which one is named, and what for."""

from __future__ import annotations

import importlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from django_resilient_pg.diagnosis.path.attempts import said
from django_resilient_pg.diagnosis.path.network import Place, knock, limited
from django_resilient_pg.diagnosis.path.stages import NAMES, Outcome, Walk, refused_settings, walk
from django_resilient_pg.diagnosis.settings.hosts import Host
from django_resilient_pg.driver.link import Link
from django_resilient_pg.facts import Path as PathKind
from tests.engines import DRIVER, RESILIENT, STOCK, Connections, until
from tests.server.impostors import Impostor
from tests.server.tls import TlsServer, client_certificate, encrypt, target_of

pytestmark = pytest.mark.once_per_driver

TIMEOUT = 2.0


def walked(tls_connections: Connections, *, primary: bool = False, **changes: Any) -> Walk:
    """Walk with these changes of the entry; in time, and without a secret in what is found."""
    connection = tls_connections(**changes)
    found, connect = target_of(connection)
    began = time.monotonic()
    result = walk(found, connect, TIMEOUT, primary=primary)
    assert time.monotonic() - began < TIMEOUT + 2
    assert str(connection.settings_dict["PASSWORD"]) not in repr(result)
    assert tuple(stage.name for stage in result.stages) == NAMES
    return result


def check(result: Walk, stage: str, status: int, part: str) -> None:
    """One stage failed: this one, for this reason; what comes after it was not run."""
    failed = result.failed
    assert failed is not None, result.stages
    assert (failed.name, result.exit_status) == (stage, status), failed
    assert part in failed.detail
    assert failed.advice.endswith(".")
    assert result.not_run == NAMES[NAMES.index(stage) + 1 :]
    assert result.facts is None


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_healthy_way(tls_connections: Connections, engine: str) -> None:
    result = walked(tls_connections, engine=engine)
    assert [stage.outcome for stage in result.stages] == [Outcome.OK] * len(NAMES)
    assert result.exit_status == 0
    assert result.failed is None
    assert result.connect_seconds is not None
    assert result.tls is not None
    assert result.tls.chain_verified
    assert result.tls.hostname_matches
    assert result.facts is not None
    assert result.facts.path is PathKind.DIRECT
    assert [knock.accepted for knock in result.knocks][-1]


def test_only_what_was_measured_by_itself_has_a_time(tls_connections: Connections) -> None:
    """TCP and TLS have connections of their own; the driver's login is one time."""
    result = walked(tls_connections)
    seconds = {stage.name: stage.seconds for stage in result.stages}
    assert seconds["authentication"] is None
    assert all((seconds[name] or 0) > 0 for name in ("DNS", "TCP", "TLS"))
    assert (result.connect_seconds or 0) > 0


def test_one_statement_after_the_login(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.configure(log_statement="all")
    tls_server.execute("SELECT 'the walk begins'")
    walked(tls_connections, engine=STOCK)
    tls_server.execute("SELECT 'the walk is over'")
    log = tls_server.log_text().rpartition("the walk begins")[2].partition("the walk is over")[0]
    statements = [line for line in log.splitlines() if "statement:" in line or "execute " in line]
    assert len(statements) == 2, statements  # the last is the one that ends the walk


def test_the_session_can_be_examined_and_is_closed(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    seen: list[Any] = []
    until(lambda: not tls_server.backends(), "somebody else's sessions are left")

    def examine(link: Link) -> None:
        seen.append((link.ask("SELECT current_user")[0][0], len(tls_server.backends())))

    assert walk(*target_of(tls_connections()), TIMEOUT, examine=examine).failed is None
    assert seen == [("app", 1)]
    until(lambda: not tls_server.backends(), "the session is left")


def test_a_unix_socket(tls_server: TlsServer, tls_connections: Connections) -> None:
    result = walked(tls_connections, HOST=tls_server.socket_dir)
    outcomes = {stage.name: stage.outcome for stage in result.stages}
    assert outcomes.pop("DNS") is outcomes.pop("TLS") is Outcome.NOT_NEEDED
    assert set(outcomes.values()) == {Outcome.OK}
    assert result.facts is not None
    assert result.facts.path is PathKind.UNIX_SOCKET


def test_a_service_file(
    tls_server: TlsServer,
    tls_connections: Connections,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "services"
    lines = ["[shop]", "host=localhost", f"port={tls_server.port}", "dbname=app", "user=app"]
    file.write_text("\n".join([*lines, f"password={tls_server.password}"]) + "\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    empty = {"NAME": "", "USER": "", "PASSWORD": "", "HOST": "", "PORT": ""}
    connection = tls_connections(**empty, options={"service": "shop"})
    result = walk(*target_of(connection), TIMEOUT)
    assert result.exit_status == 0
    assert tls_server.password not in repr(result)


def test_the_second_of_two_hosts(tls_server: TlsServer, tls_connections: Connections) -> None:
    result = walked(tls_connections, HOST="127.0.0.1,localhost", PORT=f"1,{tls_server.port}")
    assert result.exit_status == 0
    assert "127.0.0.1:1: Connection refused." in result.stages[2].detail
    assert result.tls is not None
    assert result.tls.server_name == "localhost"


def test_a_host_that_does_not_resolve_beside_one_that_does(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    """psycopg 3 and libpq both go on to the next host."""
    result = walked(tls_connections, HOST="nowhere.invalid,localhost", PORT=tls_server.port)
    assert result.exit_status == 0
    assert '"nowhere.invalid" does not resolve' in result.stages[1].detail


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"PORT": "abc"}, 'The port "abc"'),
        ({"options": {"sslmode": "verify_full"}}, 'did you mean "verify-full"?'),
        ({"options": {"service": "nowhere"}}, 'The service "nowhere"'),
        ({"options": {"keepalive": 1}}, 'nvalid connection option "keepalive"'),
        ({"options": {"sslmode": "allow", "sslrootcert": "system"}}, "Weak sslmode"),
        ({"options": {"connect_timeout": "soon"}}, 'connect_timeout is "soon"'),
        ({"options": {"tcp_user_timeout": 10**10}}, 'tcp_user_timeout is "10000000000"'),
        ({"options": {"keepalives": ""}}, 'keepalives is "": libpq takes 1 (on) or 0 (off).'),
        ({"HOST": "/run/" + 100 * "a"}, "a Unix socket's path may have 107."),
        ({"HOST": "[::1]"}, "HOST has brackets in it"),
    ],
)
def test_settings_that_make_no_sense(
    tls_connections: Connections, changes: dict[str, Any], part: str
) -> None:
    check(walked(tls_connections, engine=STOCK, **changes), "settings", 3, part)


def test_a_number_that_only_libpq_looks_at(tls_connections: Connections) -> None:
    """It notices it once it has begun with an address, which is no refusal of the login."""
    found, _ = target_of(tls_connections())
    _, connect = target_of(tls_connections(options={"keepalives_count": "many"}))
    check(walk(found, connect, TIMEOUT), "settings", 3, 'for connection option "keepalives_count"')


def test_an_error_in_a_service_file_is_corrected_there(
    tls_connections: Connections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "services"
    file.write_text("[shop]\nhost localhost\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    result = walked(tls_connections, options={"service": "shop"})
    check(result, "settings", 3, "Syntax error in service file")
    assert result.failed is not None
    assert result.failed.advice == f'Correct the service file "{file}".'


def test_a_path_that_python_refuses_is_an_answer_too() -> None:
    host = Host("/run", "", 5432)
    places = [Place(host, socket.AF_UNIX, path) for path in (f"/{200 * 'a'}", "/run/\0x\udfff")]
    assert [each.error for each in knock(places, TIMEOUT)] == ["Invalid argument"] * 2


def test_settings_that_django_or_the_engine_refuse(tls_connections: Connections) -> None:
    found, _ = target_of(tls_connections())
    result = refused_settings(found, 'The option "ping_aftr" is unknown.')
    check(result, "settings", 3, "ping_aftr")


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".example"])
def test_a_host_that_does_not_resolve(tls_connections: Connections, host: str) -> None:
    check(walked(tls_connections, HOST=host), "DNS", 1, f'"{host}" does not resolve')


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_hostaddr_that_is_no_address(tls_connections: Connections, engine: str) -> None:
    result = walked(tls_connections, engine=engine, options={"hostaddr": "127.0.0.300"})
    check(result, "DNS", 3, 'hostaddr is "127.0.0.300", which is not an address.')
    assert result.failed is not None
    assert "Correct hostaddr" in result.failed.advice


def test_a_port_where_nothing_listens(tls_connections: Connections) -> None:
    check(walked(tls_connections, PORT="1"), "TCP", 1, "127.0.0.1:1: Connection refused.")


def test_a_folder_without_a_socket(tls_connections: Connections, tmp_path: Path) -> None:
    check(walked(tls_connections, HOST=str(tmp_path)), "TCP", 1, "No such file or directory")


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port whose queue is full: the kernel drops what else comes, as a firewall does."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


def test_an_address_that_does_not_answer(tls_connections: Connections) -> None:
    with deaf_port() as port:
        check(walked(tls_connections, PORT=port), "TCP", 1, "does not answer within 2 s")


def test_a_port_that_accepts_and_stays_silent(tls_connections: Connections) -> None:
    with Impostor() as silent:
        result = walked(tls_connections, PORT=silent.port)
    check(result, "TLS", 1, "accepts connections but does not answer within 2 s")


def test_a_server_that_hangs(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.pause()
    try:
        check(walked(tls_connections), "TLS", 1, "does not answer within 2 s")
    finally:
        tls_server.resume()
    assert walked(tls_connections).exit_status == 0


@pytest.mark.parametrize("sslmode", ["disable", "verify-full"])
def test_a_port_that_is_not_postgresql(tls_connections: Connections, sslmode: str) -> None:
    with Impostor(answer=b"HTTP/1.1 400 Bad Request\r\n\r\n") as web:
        result = walked(tls_connections, PORT=web.port, options={"sslmode": sslmode})
    check(result, "TLS", 3, "is an HTTP server, not PostgreSQL")
    with Impostor(answer=b"\0\xffrubbish") as rubbish:
        result = walked(tls_connections, PORT=rubbish.port, options={"sslmode": sslmode})
    check(result, "TLS", 3, 'something that says "')


def test_a_port_that_hangs_up(tls_connections: Connections) -> None:
    with Impostor(answer=b"") as closing:
        check(walked(tls_connections, PORT=closing.port), "TLS", 1, "closes them without an answer")


@pytest.mark.parametrize("sslmode", ["require", "verify-full"])
def test_tls_refused(tls_server: TlsServer, tls_connections: Connections, sslmode: str) -> None:
    tls_server.configure(ssl="off")
    result = walked(tls_connections, options={"sslmode": sslmode})
    check(result, "TLS", 3, f'no TLS, which sslmode "{sslmode}" requires')


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer"])
def test_tls_not_offered_and_not_needed(
    tls_server: TlsServer, tls_connections: Connections, sslmode: str
) -> None:
    tls_server.configure(ssl="off")
    result = walked(tls_connections, options={"sslmode": sslmode})
    assert result.exit_status == 0
    assert result.stages[3].outcome is Outcome.NOT_NEEDED


def test_a_wrong_authority(tls_connections: Connections, tmp_path: Path) -> None:
    other = str(client_certificate(tmp_path).ca_file)
    result = walked(tls_connections, options={"sslrootcert": other})
    check(result, "TLS", 3, f'is not signed by a CA in "{other}"')


def test_a_missing_file_of_authorities(tls_connections: Connections, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    check(walked(tls_connections, options={"sslrootcert": missing}), "TLS", 3, missing)


def test_an_expired_certificate(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.present("localhost", expires=datetime(2024, 1, 2, tzinfo=UTC))
    check(walked(tls_connections), "TLS", 3, "expired on 2024-01-02")


def test_a_wrong_host_name(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.present("other.example")
    result = walked(tls_connections)
    check(result, "TLS", 3, 'is not for "localhost" but for other.example')
    assert walked(tls_connections, options={"sslmode": "verify-ca"}).exit_status == 0


def test_a_hostaddr_without_a_name_to_compare(tls_connections: Connections) -> None:
    result = walked(tls_connections, HOST="", options={"hostaddr": "127.0.0.1"})
    check(result, "TLS", 3, 'sslmode "verify-full" needs the name of the host')
    assert result.failed is not None
    assert result.failed.advice.startswith("Set HOST to the name")


def test_a_client_certificate_that_is_required(
    tls_server: TlsServer, tls_connections: Connections, tmp_path: Path
) -> None:
    mine = client_certificate(tmp_path)
    tls_server.trust_clients(mine.ca_file)
    tls_server.admit("hostssl all all all scram-sha-256 clientcert=verify-ca")
    check(walked(tls_connections), "TLS", 3, "requires a client certificate, and none is set")
    given = {"sslcert": str(mine.cert_file), "sslkey": str(mine.key_file)}
    assert walked(tls_connections, options=given).exit_status == 0


@pytest.mark.parametrize("given", [{}, {"sslpassword": "not-this-one"}])
@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_key_whose_passphrase_is_not_set(
    tls_connections: Connections, tmp_path: Path, engine: str, given: dict[str, str]
) -> None:
    mine = client_certificate(tmp_path)
    encrypt(mine.key_file, "opened")
    files = {"sslcert": str(mine.cert_file), "sslkey": str(mine.key_file)}
    result = walked(tls_connections, engine=engine, options={**files, **given})
    check(result, "TLS", 3, "ould not load private key file")
    assert result.failed is not None
    assert 'set OPTIONS["sslpassword"] to its passphrase' in result.failed.advice
    opened = {**files, "sslpassword": "opened"}
    assert walked(tls_connections, engine=engine, options=opened).exit_status == 0


def test_a_passphrase_in_the_service_file(
    tls_connections: Connections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = client_certificate(tmp_path)
    (tmp_path / "services").write_text("[shop]\nsslpassword=opened\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    encrypt(mine.key_file, "opened")
    files = {"sslcert": str(mine.cert_file), "sslkey": str(mine.key_file)}
    assert walked(tls_connections, options={**files, "service": "shop"}).exit_status == 0


def test_a_server_that_wants_tls(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.admit("hostssl all all all scram-sha-256")
    result = walked(tls_connections, options={"sslmode": "disable"})
    check(result, "TLS", 3, "refuses this user without TLS")


def test_a_version_of_tls_that_is_too_old(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    tls_server.configure(
        ssl_min_protocol_version="TLSv1",
        ssl_max_protocol_version="TLSv1.1",
        ssl_ciphers="ALL:@SECLEVEL=0",
    )
    check(walked(tls_connections), "TLS", 3, "with TLSv1.1 it would succeed")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"PASSWORD": "a-wrong-secret"}, "Password authentication failed"),
        ({"PASSWORD": ""}, "password"),
        ({"user": "nobody-here", "PASSWORD": "a-wrong-secret"}, "authentication failed"),
        ({"options": {"options": "-c nonsense=1"}}, "nonsense"),
        ({"options": {"options": "search_path=foo"}}, "Invalid command-line argument"),
        ({"options": {"options": "-c statement_timeout=abc"}}, "Invalid value for parameter"),
        ({"options": {"options": "-c statement_timeout=-5"}}, "outside the valid range"),
        ({"options": {"options": "-c enable_seqscan=7x"}}, "requires a Boolean value"),
        ({"options": {"options": "-c shared_buffers=1"}}, "cannot be changed"),
        ({"options": {"options": "-c log_min_messages=debug1"}}, "Permission denied to set"),
        ({"options": {"options": "-c session_replication_role=replica"}}, "ermission denied to"),
    ],
)
def test_a_login_that_is_refused(
    tls_connections: Connections,
    changes: dict[str, Any],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    found, connect = target_of(tls_connections(**changes))
    check(walk(found, connect, TIMEOUT), "authentication", 3, part)


def test_a_user_without_an_entry_in_pg_hba_conf(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    tls_server.admit("host all somebody_else all scram-sha-256")
    check(walked(tls_connections), "authentication", 3, "refuses this user over TLS")
    tls_server.configure(ssl="off")
    result = walked(tls_connections, options={"sslmode": "prefer"})
    check(result, "authentication", 3, "No pg_hba.conf entry")


def test_too_many_connections(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.execute("ALTER ROLE app CONNECTION LIMIT 0")
    try:
        check(walked(tls_connections), "authentication", 1, "Too many connections for role")
    finally:
        tls_server.execute("ALTER ROLE app CONNECTION LIMIT -1")


def test_a_login_that_does_not_end(tls_connections: Connections) -> None:
    result = walked(tls_connections, options={"options": "-c post_auth_delay=5"})
    check(result, "authentication", 1, "The login did not complete within 2 s")


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_role_that_cannot_be_assumed(tls_connections: Connections, engine: str) -> None:
    found, connect = target_of(tls_connections(engine=engine))
    result = walk(found, connect, TIMEOUT, assume_role="nobody-there")
    check(result, "database", 3, 'OPTIONS["assume_role"] is refused: role "nobody-there" does not')


def test_a_role_that_can_be_is_not_kept(tls_connections: Connections) -> None:
    found, connect = target_of(tls_connections())

    def examine(link: Link) -> None:
        assert link.ask("SELECT current_setting('role')") == [("none",)]

    result = walk(found, connect, TIMEOUT, assume_role=found.user, examine=examine)
    assert result.exit_status == 0
    assert f'as the role "{found.user}".' in result.stages[NAMES.index("database")].detail


def test_a_class_that_the_driver_cannot_use(tls_connections: Connections) -> None:
    options = {"cursor_factory": dict}
    check(walked(tls_connections, options=options), "settings", 3, "(TypeError).")


def test_no_such_database(tls_connections: Connections) -> None:
    result = walked(tls_connections, database="nowhere")
    check(result, "database", 3, 'Database "nowhere" does not exist')
    assert result.stages[NAMES.index("authentication")].outcome is Outcome.OK


def test_a_database_that_may_not_be_connected_to(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    tls_server.create_database("closed")
    tls_server.execute("ALTER DATABASE closed OWNER TO postgres")
    tls_server.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
    check(
        walked(tls_connections, database="closed"), "database", 3, "Permission denied for database"
    )


def test_no_server_of_the_role_that_is_wanted(tls_connections: Connections) -> None:
    result = walked(tls_connections, options={"target_session_attrs": "standby"})
    check(result, "role", 1, "not in hot standby mode")


def test_a_server_that_refuses_to_write(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    tls_server.configure(default_transaction_read_only="on")
    result = walked(tls_connections)
    assert result.exit_status == 0
    assert "refuses to write" in result.stages[NAMES.index("role")].detail
    check(walked(tls_connections, primary=True), "role", 1, "refuses to write")


@contextmanager
def held_up(server: TlsServer, database: str = "app") -> Iterator[None]:
    """Nobody gets an answer about functions, which the question for the facts asks for."""
    link = importlib.import_module(DRIVER).connect(
        host=server.socket_dir, port=server.port, dbname=database, user=server.superuser
    )
    try:
        link.cursor().execute("LOCK TABLE pg_catalog.pg_proc IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        link.close()


def test_a_first_statement_that_gets_no_answer(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    with held_up(tls_server):
        result = walked(tls_connections)
        # Nothing of ours waits on, although nobody has been answered.
        assert "checkdbconn" not in [thread.name for thread in threading.enumerate()]
    check(result, "settings of the server", 1, "first statement got no answer within 2 s")


@pytest.fixture
def guarded(tls_server: TlsServer) -> Iterator[str]:
    """A database whose catalogues are closed to ordinary roles."""
    tls_server.create_database("guarded")
    tls_server.execute("REVOKE ALL ON pg_settings, pg_proc FROM PUBLIC", database="guarded")
    yield "guarded"
    tls_server.terminate_all("guarded")
    tls_server.drop_database("guarded")


REFUSALS = {
    "permission denied": "REVOKE EXECUTE ON FUNCTION pg_is_in_recovery() FROM PUBLIC",
    "statement timeout": "ALTER DATABASE guarded SET statement_timeout = '100ms'",
}


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
@pytest.mark.parametrize("why", REFUSALS)
def test_facts_that_are_refused_leave_the_way_open(
    tls_server: TlsServer, tls_connections: Connections, guarded: str, engine: str, why: str
) -> None:
    """The application asks for none of them."""
    tls_server.execute(REFUSALS[why], database=guarded)
    with held_up(tls_server, guarded) if "timeout" in why else ExitStack():
        result = walked(tls_connections, engine=engine, database=guarded)
    assert (result.exit_status, result.failed) == (0, None)
    assert result.stages[-1].detail.startswith("Unknown: the server refuses to answer (")
    assert why in result.stages[-1].detail


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_closed_catalogues_hide_no_facts(
    tls_connections: Connections, guarded: str, engine: str
) -> None:
    result = walked(tls_connections, engine=engine, database=guarded)
    assert result.exit_status == 0
    assert result.stages[-1].detail.endswith("reached through: direct.")


def test_a_server_that_is_down_and_comes_back(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    tls_server.stop("fast")
    check(walked(tls_connections), "TCP", 1, "Connection refused")
    tls_server.start()
    assert walked(tls_connections).exit_status == 0


def test_what_takes_too_long_is_given_up_and_its_late_result_put_away() -> None:
    late: list[str] = []

    def slow() -> str:
        time.sleep(0.3)
        return "late"

    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        limited(slow, 0.1, late=late.append)
    deadline = time.monotonic() + 5
    while not late and time.monotonic() < deadline:
        time.sleep(0.01)
    assert late == ["late"]
    assert limited(lambda: 1, 5) == 1
    with pytest.raises(ZeroDivisionError):
        limited(lambda: 1 / 0, 5)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ('connection failed: connection to server at "::1", port 1 failed: Connection refused\n'
         "\tIs the server running on that host?\n"
         "Multiple connection attempts failed. All failures were:\n"
         "- host: 'a', port: '1', hostaddr: '::1': connection failed: connection to server at "
         '"127.0.0.1", port 1 failed: FATAL:  no', "no"),
        ('connection to server at "a" (::1), port 1 failed: Connection refused\n'
         "\tIs the server running on that host?\n", "Connection refused"),
        ('connection to server at "a" (::1), port 1 failed: FATAL:  x\n'
         'connection to server at "a" (::1), port 1 failed: FATAL:  x\n', "x"),
        ('connection to server on socket "/x/.s.PGSQL.1" failed: FATAL:  y\n', "y"),
        ('invalid dsn: invalid connection option "z"\n', 'invalid connection option "z"'),
        ("", ""),
    ],
)  # fmt: skip
def test_what_a_driver_says_in_short(text: str, short: str) -> None:
    assert said(text) == short
