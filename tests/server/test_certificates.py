"""Handshakes with real servers: what is seen of a certificate and what is wrong with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import venv
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import django_resilient_pg
from django_resilient_pg.diagnosis.findings import PREFIX, findings
from django_resilient_pg.diagnosis.path.certificates import Certificate, days_left
from django_resilient_pg.diagnosis.path.greetings import Answer
from django_resilient_pg.diagnosis.path.handshakes import TlsFacts, handshake
from django_resilient_pg.diagnosis.survey.gather import survey
from testproject import certificates
from testproject.certificates import Certificates
from testproject.postgres import Server
from tests.engines import DRIVER, Connections
from tests.server.impostors import Impostor
from tests.server.tls import TlsServer, client_certificate, encrypt

pytestmark = pytest.mark.once_per_driver

PAST = datetime(2024, 1, 2, 3, 4, tzinfo=UTC)


def shake(server: Server, name: str = "localhost", **options: Any) -> TlsFacts:
    return handshake(server.address, server.port, name, **{"trust": server.ca_file, **options})


def test_a_healthy_server(tls_server: TlsServer) -> None:
    seen = shake(tls_server)
    assert (seen.answer, seen.failure, seen.direct) == (Answer.TLS, "", False)
    assert seen.version == "TLSv1.3"
    assert seen.cipher is not None
    assert seen.chain_verified is True
    assert seen.hostname_matches is True
    assert 0 < seen.seconds < 5


@pytest.mark.parametrize("version", [None, "15"])
def test_direct_negotiation_which_came_with_postgresql_17(version: str | None) -> None:
    with TlsServer(version) as server:
        seen = shake(server, direct=True)
        known = int(server.version) >= 17
        assert seen.answer is Answer.TLS  # the old one was asked the usual way, too
        assert (seen.failure == "", seen.chain_verified) == (known, True if known else None)
        assert seen.version == ("TLSv1.3" if known else None)
        assert shake(server).version == "TLSv1.3"


def test_what_the_certificate_says(tls_server: TlsServer) -> None:
    tls_server.present("db.example", "10.1.2.3", expires=datetime(2100, 1, 1, tzinfo=UTC))
    certificate = shake(tls_server).certificate
    assert certificate is not None
    assert certificate.dns_names == ("db.example",)
    assert certificate.ip_addresses == ("10.1.2.3",)
    assert "django-resilient-pg tests" in certificate.issuer
    assert certificate.subject != certificate.issuer
    assert certificate.not_after == datetime(2100, 1, 1, tzinfo=UTC)
    assert not certificate.self_signed
    assert len(certificate.fingerprint) == 64


def test_an_unknown_authority(tls_server: TlsServer, tmp_path: Path) -> None:
    seen = shake(tls_server, trust=str(client_certificate(tmp_path).ca_file))
    assert seen.chain_verified is False
    assert seen.verify_code == 20  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    assert seen.certificate is not None  # read all the same
    assert seen.hostname_matches is True
    assert shake(tls_server, trust="system").chain_verified is False


def test_an_expired_certificate(tls_server: TlsServer) -> None:
    tls_server.present("localhost", expires=PAST)
    seen = shake(tls_server)
    assert seen.chain_verified is False
    assert seen.verify_code == 10  # X509_V_ERR_CERT_HAS_EXPIRED
    assert seen.certificate is not None
    assert seen.certificate.not_after == PAST
    assert not seen.certificate.valid_at(datetime.now(UTC))
    assert days_left(seen.certificate, datetime.now(UTC)) < 0


def test_another_host_name(tls_server: TlsServer) -> None:
    tls_server.present("other.example")
    seen = shake(tls_server)
    assert (seen.chain_verified, seen.hostname_matches) == (True, False)
    assert shake(tls_server, "other.example").hostname_matches is True
    assert shake(tls_server, "").hostname_matches is None


def test_authorities_that_cannot_be_read(tls_server: TlsServer, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", tmp_path):
        seen = shake(tls_server, trust=str(path))
        assert seen.chain_verified is None
        assert str(path) in seen.verify_error
        assert seen.certificate is not None


def test_versions_that_libpq_refuses(tls_server: TlsServer) -> None:
    tls_server.configure(
        ssl_min_protocol_version="TLSv1",
        ssl_max_protocol_version="TLSv1.1",
        ssl_ciphers="ALL:@SECLEVEL=0",
    )
    seen = shake(tls_server)
    assert seen.version == "TLSv1.1"
    assert "protocol" in seen.failure
    assert seen.certificate is not None


def test_no_tls(tls_server: TlsServer) -> None:
    tls_server.configure(ssl="off")
    seen = shake(tls_server)
    assert (seen.answer, seen.version, seen.certificate) == (Answer.PLAIN, None, None)
    seen = shake(tls_server, direct=True)
    assert seen.answer is Answer.PLAIN
    assert seen.failure


def test_a_handshake_leaves_no_trace_in_the_log(tls_server: TlsServer) -> None:
    before = tls_server.log_text()
    shake(tls_server)
    tls_server.execute("SELECT 1")
    assert tls_server.log_text() == before


def test_what_does_not_answer_costs_its_time_and_no_more(tls_server: TlsServer) -> None:
    began = time.monotonic()
    with Impostor() as silent:
        seen = handshake("127.0.0.1", silent.port, timeout=0.5)
    assert seen.answer is Answer.SILENT
    assert time.monotonic() - began < 5
    tls_server.pause()
    try:
        began = time.monotonic()
        assert shake(tls_server, timeout=0.5).answer is Answer.SILENT
        assert time.monotonic() - began < 5
    finally:
        tls_server.resume()


def test_a_handshake_that_stops_midway_ends_in_time() -> None:
    began = time.monotonic()
    with Impostor(answer=b"S", hold=True) as half:
        seen = handshake("127.0.0.1", half.port, timeout=0.5)
    assert seen.answer is Answer.TLS
    assert seen.failure == "no answer in time"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("greeting", "answer", "until", "who"),
    [
        (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", "an HTTP server"),
        (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\r\n\r\n", "an HTTP server"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", None, b"", "an SSH server"),
        (b"J\0\0\0\n8.0.36\0caching_sha2_password\0", None, b"", "a MySQL server"),
        (b"", b"\x15\x03\x01\0\x02\x02\x0a", b"", "a server that begins with TLS at once"),
        (b"", b"\0\xff\x01rubbish\n", b"", 'something that says "'),
    ],
)
def test_what_is_not_postgresql_is_named(
    greeting: bytes, answer: bytes | None, until: bytes, who: str
) -> None:
    with Impostor(greeting=greeting, answer=answer, until=until) as other:
        seen = handshake("127.0.0.1", other.port, timeout=0.5)
    assert seen.answer is Answer.OTHER
    assert seen.said.startswith(who)


@pytest.mark.parametrize(
    "answer",
    [b"E\0\0\0\x20SFATAL\0C53300\0Mno slots\0\0", b"Eno slots\0"],
    ids=["protocol 3", "protocol 2"],
)
def test_an_error_of_the_server_is_passed_on(answer: bytes) -> None:
    with Impostor(answer=answer) as full:
        seen = handshake("127.0.0.1", full.port, timeout=0.5)
    assert (seen.answer, seen.said) == (Answer.ERROR, "no slots")


def test_what_hangs_up_or_refuses() -> None:
    with Impostor(answer=b"") as closing:
        port = closing.port
        assert handshake("127.0.0.1", port, timeout=0.5).answer is Answer.CLOSED
    assert handshake("127.0.0.1", port, timeout=0.5).said == "Connection refused"


def certificate(*dns: str, ip: tuple[str, ...] = (), common_name: str = "") -> Certificate:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    return Certificate("", "", common_name, dns, ip, moment, moment, False, "")


@pytest.mark.parametrize(
    ("made", "host", "fits"),
    [
        (certificate("db.example"), "DB.example", True),
        (certificate("db.example"), "b.example", False),
        (certificate("*.example"), "db.example", True),
        (certificate("*.example"), "a.db.example", False),
        (certificate("*.example"), ".example", False),
        (certificate("d*.example"), "db.example", False),
        (certificate(ip=("10.0.0.1",)), "10.0.0.1", True),
        (certificate(ip=("::1",)), "0:0:0:0:0:0:0:1", True),
        (certificate("10.0.0.1"), "10.0.0.1", True),
        (certificate(common_name="db"), "db", True),
        (certificate("x.example", common_name="db"), "db", False),
        (certificate(ip=("10.0.0.1",), common_name="db"), "db", True),
        (certificate(ip=("10.0.0.1",), common_name="10.0.0.2"), "10.0.0.2", False),
        (certificate("x.example", common_name="10.0.0.2"), "10.0.0.2", True),
        (certificate(), "db", False),
    ],
)
def test_names_match_as_libpq_matches_them(made: Certificate, host: str, fits: bool) -> None:
    assert made.matches(host) is fits


ALONE = """
import importlib.util, json, sys
for name in "cryptography", "rich", "trustme", "pytest", "pip":
    assert importlib.util.find_spec(name) is None, name
from django.conf import settings
settings.configure(
    DATABASES={"default": json.loads(sys.argv[1])}, INSTALLED_APPS=["django_resilient_pg"]
)
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "checkdbconn", "--fail-level", "warning"])
"""


def needed(*names: str) -> set[str]:
    """The distributions that these need, with themselves."""
    found: set[str] = set()
    wanted = list(names)
    while wanted:
        name = re.split(r"[^\w.-]", wanted.pop(), maxsplit=1)[0].lower()
        if name in found:
            continue
        found.add(name)
        required = metadata.requires(name) or ()
        wanted += [one for one in required if ";" not in one or "python_version" in one]
    return found


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has what the package needs, one driver, and no more."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, symlinks=True, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    drivers = ["psycopg", "psycopg-binary"] if DRIVER == "psycopg" else ["psycopg2-binary"]
    (packages / "django_resilient_pg").symlink_to(Path(str(django_resilient_pg.__file__)).parent)
    for name in needed("Django", "tenacity", *drivers):
        for file in metadata.files(name) or ():
            first, place = file.parts[0], Path(str(file.locate()))
            if first != ".." and not (packages / first).exists():
                (packages / first).symlink_to(place.parents[len(file.parts) - 1] / first)
    return home / "bin" / "python"


def test_an_expired_certificate_is_found_with_django_and_a_driver_alone(
    tls_server: TlsServer, bare_python: Path
) -> None:
    tls_server.present("localhost", expires=PAST)
    entry = tls_server.database(options={"sslmode": "require"})
    del entry["OPTIONS"]["sslrootcert"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [bare_python, "-c", ALONE, json.dumps(entry)],
        cwd=tls_server.folder, env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "certificate expired" in " ".join(done.stdout.split())


# -- the client's own -------------------------------------------------------------------------


def found_for(connections: Connections, own: Certificates, **options: object) -> dict[str, str]:
    """What is found with this certificate, by id."""
    files = {"sslcert": str(own.cert_file), "sslkey": str(own.key_file)}
    alias = connections(options={**files, **options}).alias
    return {one.id.removeprefix(PREFIX): one.message for one in findings(survey(alias))}


def test_a_clients_certificate_that_expires_within_a_day(
    tls_connections: Connections, tmp_path: Path
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=20, minutes=20)
    found = found_for(tls_connections, certificates.issue(tmp_path, "app", expires=soon))
    assert found["W119"].startswith("The client's certificate expires in 20 hours, on ")
    late = certificates.issue(tmp_path, "app", expires=soon + timedelta(days=100))
    assert "W119" not in found_for(tls_connections, late)


def test_a_clients_certificate_that_has_expired(
    tls_server: TlsServer, tls_connections: Connections, tmp_path: Path
) -> None:
    mine = certificates.issue(tmp_path, "app", expires=PAST)
    assert "expired " in found_for(tls_connections, mine)["W119"]  # nobody asks for it yet
    tls_server.trust_clients(mine.ca_file)
    tls_server.admit("hostssl all all all cert")
    assert "expired " in found_for(tls_connections, mine)["E011"]


def test_a_clients_certificate_that_is_half_rotated(
    tls_connections: Connections, tmp_path: Path
) -> None:
    mine = client_certificate(tmp_path)
    other = tmp_path / "next"
    other.mkdir()
    half = replace(mine, key_file=client_certificate(other).key_file)
    found = found_for(tls_connections, half)
    assert "private key does not belong to its certificate" in found["E011"]
    assert "E004" not in found
    assert "E011" not in found_for(tls_connections, mine)


def test_a_clients_certificate_that_cannot_be_read_is_a_warning(
    tls_connections: Connections, tmp_path: Path
) -> None:
    mine = client_certificate(tmp_path)
    encrypt(mine.key_file, "opened")
    assert "W119" not in found_for(tls_connections, mine, sslpassword="opened")
    found = found_for(tls_connections, mine)
    assert "was not checked" in found["W119"]
