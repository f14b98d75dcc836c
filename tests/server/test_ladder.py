"""``--sslmodes`` against servers whose TLS is off, on, demanded, and broken in every way."""

from __future__ import annotations

import ssl
import struct
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from django_resilient_pg.diagnosis.findings import findings
from django_resilient_pg.diagnosis.path.sslmodes import Ladder, Rung, sslmodes
from django_resilient_pg.diagnosis.path.tls_refusals import Cause
from django_resilient_pg.diagnosis.settings.target import MODES
from django_resilient_pg.diagnosis.survey.gather import survey
from tests.engines import Connections, until
from tests.server.impostors import Asker, Impostor
from tests.server.tls import TlsServer, client_certificate, target_of

pytestmark = pytest.mark.once_per_driver

TIMEOUT = 2.0
# What comes of a mode: no connection, one in plain text, one over TLS, not tried (to the end).
NO, PLAIN, TLS, OPEN = "no", "plain", "TLS", "not tried"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own ~/.postgresql/root.crt, and no authority that the system may have."""
    monkeypatch.setenv("HOME", str(tmp_path))


def climbed(tls_connections: Connections, sslmode: str = "verify-full", **options: Any) -> Ladder:
    """Try all modes, with these options; in time, and without a secret in what is found."""
    connection = tls_connections(options={"sslmode": sslmode, **options})
    began = time.monotonic()
    ladder = sslmodes(*target_of(connection), TIMEOUT)
    assert time.monotonic() - began < 5
    assert str(connection.settings_dict["PASSWORD"]) not in repr(ladder)
    return ladder


def came_of(rung: Rung) -> str:
    if rung.connects is None:
        return OPEN
    return NO if not rung.connects else TLS if rung.encrypted else PLAIN


def check(ladder: Ladder, *outcomes: str) -> None:
    """Each mode did this, and who did not connect says why."""
    assert tuple(rung.mode for rung in ladder.rungs) == MODES
    assert tuple(map(came_of, ladder.rungs)) == outcomes, ladder.rungs
    assert all(rung.connects or rung.why_not.endswith(".") for rung in ladder.rungs)


def test_tls_off(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.configure(ssl="off")
    ladder = climbed(tls_connections)
    check(ladder, PLAIN, PLAIN, PLAIN, NO, NO, NO)
    assert {rung.cause for rung in ladder.rungs[3:]} == {Cause.NO_TLS}
    assert ladder.recommended is None
    assert "Enable TLS on the server" in ladder.conclusion
    assert '"disable" or "allow" or "prefer" only, not encrypted' in ladder.conclusion


def test_tls_on(tls_connections: Connections) -> None:
    ladder = climbed(tls_connections)
    check(ladder, PLAIN, PLAIN, TLS, TLS, TLS, TLS)
    assert ladder.recommended == "verify-full"
    assert ladder.conclusion.startswith('Keep sslmode "verify-full"')
    ladder = climbed(tls_connections, "prefer")
    assert ladder.recommended == "verify-full"
    assert ladder.conclusion.startswith('Set sslmode "verify-full"')


def test_hostssl_only(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.admit("hostssl all all all scram-sha-256")
    ladder = climbed(tls_connections)
    check(ladder, NO, TLS, TLS, TLS, TLS, TLS)
    assert ladder.rungs[0].cause is Cause.ENCRYPTION_REQUIRED
    assert ladder.recommended == "verify-full"


def test_wrong_ca(tls_connections: Connections, tmp_path: Path) -> None:
    """Even "require" fails, as libpq checks against a file that is there; "prefer" gives TLS up."""
    ladder = climbed(tls_connections, sslrootcert=str(client_certificate(tmp_path).ca_file))
    check(ladder, PLAIN, PLAIN, PLAIN, NO, NO, NO)
    assert {rung.cause for rung in ladder.rungs[3:]} == {Cause.AUTHORITY}
    assert ladder.rungs[2].why_not.startswith("Not encrypted, because TLS fails: The server's cert")
    assert "name its file in sslrootcert" in ladder.conclusion
    assert "not encrypted" in ladder.conclusion
    assert ladder.recommended is None


def test_expired_certificate(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.present("localhost", expires=datetime(2024, 1, 2, 3, 4, tzinfo=UTC))
    ladder = climbed(tls_connections)
    check(ladder, PLAIN, PLAIN, PLAIN, NO, NO, NO)
    assert {rung.cause for rung in ladder.rungs[3:]} == {Cause.EXPIRED}
    assert ladder.conclusion.startswith(
        "The server's certificate expired on 2024-01-02 03:04 UTC. Renew the certificate"
    )


def test_wrong_host_name(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.present("other.example")
    ladder = climbed(tls_connections)
    check(ladder, PLAIN, PLAIN, TLS, TLS, TLS, NO)
    assert ladder.rungs[-1].cause is Cause.HOST_NAME
    assert ladder.recommended == "verify-ca"
    assert 'not for "localhost" but for other.example' in ladder.conclusion
    assert 'Until then use "verify-ca"' in ladder.conclusion


def test_client_certificate_required(
    tls_server: TlsServer, tls_connections: Connections, tmp_path: Path
) -> None:
    mine = client_certificate(tmp_path)
    tls_server.trust_clients(mine.ca_file)
    tls_server.admit("hostssl all all all scram-sha-256 clientcert=verify-ca")
    ladder = climbed(tls_connections)
    check(ladder, NO, NO, NO, NO, NO, NO)
    assert {rung.cause for rung in ladder.rungs[1:]} == {Cause.CLIENT_CERTIFICATE}
    assert ladder.recommended is None
    assert "Set OPTIONS sslcert and sslkey" in ladder.conclusion
    given = {"sslcert": str(mine.cert_file), "sslkey": str(mine.key_file)}
    ladder = climbed(tls_connections, **given)
    check(ladder, NO, TLS, TLS, TLS, TLS, TLS)
    assert ladder.recommended == "verify-full"


def test_no_authority_known(tls_connections: Connections) -> None:
    ladder = climbed(tls_connections, "prefer", sslrootcert=None)
    check(ladder, PLAIN, PLAIN, TLS, TLS, NO, NO)
    assert ladder.rungs[-1].cause is Cause.NO_ROOT
    assert ladder.recommended == "require"
    assert "does not verify the server's identity" in ladder.conclusion


@pytest.mark.parametrize("found_by_libpq", [True, False])
def test_an_authority_that_the_system_knows(
    tls_server: TlsServer,
    tls_connections: Connections,
    monkeypatch: pytest.MonkeyPatch,
    found_by_libpq: bool,
) -> None:
    """Its file is named: the OpenSSL of a driver's wheel looks in other places than Python's."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    if found_by_libpq:
        monkeypatch.setenv("SSL_CERT_FILE", tls_server.ca_file)
    else:
        own = ssl.get_default_verify_paths()._replace(cafile=tls_server.ca_file)
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: own)
    ladder = climbed(tls_connections, "prefer", sslrootcert=None)
    check(ladder, PLAIN, PLAIN, TLS, TLS, NO, NO)
    assert (ladder.recommended, ladder.sslrootcert) == ("verify-full", tls_server.ca_file)
    assert f'and sslrootcert "{tls_server.ca_file}"' in ladder.conclusion
    flawed = tls_connections(options={"sslmode": "require", "sslrootcert": None})
    (one,) = [each for each in findings(survey(flawed.alias)) if each.id == "resilient_pg.W113"]
    options = {"sslmode": "verify-full", "sslrootcert": tls_server.ca_file}
    assert one.fix == {"OPTIONS": options}
    assert tls_server.ca_file in one.evidence
    tls_connections(options=options).ensure_connection()


def test_an_old_version_of_tls(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.configure(
        ssl_min_protocol_version="TLSv1",
        ssl_max_protocol_version="TLSv1.1",
        ssl_ciphers="ALL:@SECLEVEL=0",
    )
    ladder = climbed(tls_connections)
    check(ladder, PLAIN, PLAIN, PLAIN, NO, NO, NO)
    assert {rung.cause for rung in ladder.rungs[3:]} == {Cause.OTHER}


def test_hostnossl_only(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.admit("hostnossl all all all scram-sha-256")
    ladder = climbed(tls_connections)
    check(ladder, PLAIN, PLAIN, PLAIN, NO, NO, NO)
    assert "Add a hostssl line" in ladder.conclusion


def test_no_entry_in_pg_hba_conf(tls_server: TlsServer, tls_connections: Connections) -> None:
    tls_server.admit("host all somebody_else all scram-sha-256")
    ladder = climbed(tls_connections)
    check(ladder, NO, NO, NO, NO, NO, NO)
    assert "encrypted or not" in ladder.conclusion


def test_direct_negotiation_rules_weak_modes_out(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    ladder = climbed(tls_connections, sslnegotiation="direct")
    known = int(tls_server.version) >= 17
    check(ladder, NO, NO, NO, *[TLS if known else NO] * 3)
    assert {rung.cause for rung in ladder.rungs[:3]} == {Cause.OPTION}


def test_a_password_in_clear_text_is_not_sent_where_the_settings_would_not(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    tls_server.admit("host all all all password")
    check(climbed(tls_connections), *[OPEN] * 5, TLS)
    ladder = climbed(tls_connections, "prefer")
    check(ladder, OPEN, OPEN, TLS, TLS, TLS, TLS)
    assert {rung.cause for rung in ladder.rungs[:2]} == {Cause.CLEAR_TEXT}


@pytest.mark.parametrize(
    ("method", "require_auth"),
    [("password", ""), ("md5", ""), ("password", "password"), ("md5", "md5,password")],
)
def test_who_ends_the_tls_of_a_verified_server_gets_no_password(
    tls_connections: Connections, method: str, require_auth: str
) -> None:
    """Somebody else answers: without TLS, and asks for what it could use."""
    code = {"password": 3, "md5": 5}[method]
    salt = b"salt" if method == "md5" else b""
    with Asker(b"R" + struct.pack("!II", 8 + len(salt), code) + salt) as peer:
        options = {"require_auth": require_auth} if require_auth else {}
        connection = tls_connections(
            HOST="127.0.0.1", PORT=peer.port, options={"sslmode": "verify-full", **options}
        )
        ladder = sslmodes(*target_of(connection), TIMEOUT)
    assert not any(peer.answers), peer.answers
    assert not any(rung.connects for rung in ladder.rungs)


def test_a_wrong_password_is_tried_once(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    before = tls_server.log_text().count("password authentication failed")
    connection = tls_connections(PASSWORD="a-wrong-secret")
    ladder = sslmodes(*target_of(connection), TIMEOUT)
    check(ladder, OPEN, OPEN, OPEN, OPEN, OPEN, NO)
    assert tls_server.log_text().count("password authentication failed") == before + 1
    assert ladder.recommended is None
    assert ladder.conclusion.startswith('Password authentication failed for user "app".')


@pytest.mark.parametrize("port", ["closed", "silent"])
def test_no_server_at_all(tls_connections: Connections, port: str) -> None:
    with Impostor() as silent:
        connection = tls_connections(PORT=1 if port == "closed" else silent.port)
        began = time.monotonic()
        ladder = sslmodes(*target_of(connection), TIMEOUT)
        assert time.monotonic() - began < 2 * TIMEOUT + 2
    check(ladder, OPEN, OPEN, OPEN, OPEN, OPEN, NO)
    assert ladder.recommended is None


def test_a_unix_socket(tls_server: TlsServer, tls_connections: Connections) -> None:
    ladder = sslmodes(*target_of(tls_connections(HOST=tls_server.socket_dir)), TIMEOUT)
    assert ladder.rungs == ()
    assert "Unix socket" in ladder.conclusion


def test_no_session_is_left_behind(tls_server: TlsServer, tls_connections: Connections) -> None:
    climbed(tls_connections)
    until(lambda: not tls_server.backends(), "a session is left")
