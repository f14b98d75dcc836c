"""Proxies that end TLS in their own way: what the driver can use is no error of the checks."""

from __future__ import annotations

import io
import json
from ctypes.util import find_library
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from django_resilient_pg.diagnosis.path.greetings import Answer
from django_resilient_pg.diagnosis.path.handshakes import handshake, names_protocol
from django_resilient_pg.diagnosis.path.stages import walk
from tests.children import python
from tests.engines import RESILIENT, STOCK, Connections
from tests.server.impostors import Front
from tests.server.tls import TlsServer, target_of

pytestmark = pytest.mark.once_per_driver

ENGINES = pytest.mark.parametrize("engine", [RESILIENT, STOCK])
# The two of a look: strict, and taking whatever comes.
OF_A_LOOK = 2
# In a process of its own, so that psycopg can load the system's libpq.
CHECK = """
import json, sys
import django
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection

databases = json.loads(sys.argv[1])
settings.configure(DATABASES=databases, INSTALLED_APPS=["django_resilient_pg"], USE_TZ=True)
django.setup()
try:
    connection.ensure_connection()
    connects = True
except django.db.OperationalError:
    connects = False
connection.close()
try:
    call_command("check", databases=["default"])
    checked = True
except SystemCheckError:
    checked = False
print(json.dumps([connects, checked]))
"""


def check(alias: str) -> None:
    call_command("check", databases=[alias], stdout=io.StringIO(), stderr=io.StringIO())


@ENGINES
def test_a_handshake_that_fails_beside_a_connection_is_no_error(
    tls_server: TlsServer, tls_connections: Connections, engine: str
) -> None:
    """As of a proxy that is just being replaced."""
    given: dict[str, Any] = {} if engine == STOCK else {"retry_deadline": 0.2}
    with Front(tls_server.port, refuse_first=OF_A_LOOK) as front:
        connection = tls_connections(engine, PORT=front.port, **given)
        check(connection.alias)
        assert len(front.named) > OF_A_LOOK  # it did connect
    with Front(tls_server.port, refuse_first=OF_A_LOOK) as front:
        seen = walk(*target_of(tls_connections(engine, PORT=front.port, **given)), 2.0)
    assert seen.failed is None
    assert "The driver connects." in next(each.detail for each in seen.stages if each.name == "TLS")


@ENGINES
def test_one_that_fails_for_the_driver_too_is_one(
    tls_server: TlsServer, tls_connections: Connections, engine: str
) -> None:
    given: dict[str, Any] = {} if engine == STOCK else {"retry_deadline": 0.2}
    with Front(tls_server.port, refuse_first=1000) as front:
        alias = tls_connections(engine, PORT=front.port, **given).alias
        with pytest.raises(SystemCheckError, match=r"resilient_pg\.E00[34]"):
            check(alias)


def test_a_server_that_answers_is_believed_more_than_the_look(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    with Front(tls_server.port, refuse_first=OF_A_LOOK) as front:
        connection = tls_connections(PORT=front.port, PASSWORD="not this one")
        seen = walk(*target_of(connection), 2.0)
    assert seen.failed is not None
    assert seen.failed.name == "authentication"


def test_a_driver_that_does_not_ask_for_tls_decides(
    tls_server: TlsServer, tls_connections: Connections
) -> None:
    """A pooler that hangs up when asked for TLS serves those that do not ask."""
    with Front(tls_server.port, refuse_tls=True) as front:
        connection = tls_connections(PORT=front.port, options={"sslmode": "disable"})
        seen = walk(*target_of(connection), 2.0)
    assert seen.failed is None
    assert seen.tls is None


@pytest.mark.parametrize(
    ("libpq", "names"),
    [(0, True), (150018, False), (169999, False), (170000, True), (180006, True)],
)
def test_the_protocol_is_named_as_libpq_names_it(
    libpq: int,
    names: bool,
    tls_server: TlsServer,
    tls_connections: Connections,
) -> None:
    assert names_protocol(libpq) is names
    with Front(tls_server.port) as front:
        found, connect = target_of(tls_connections(PORT=front.port))
        connect.libpq = libpq
        assert walk(found, connect, 2.0).failed is None
    assert front.named[0] is names


def test_a_refused_name_and_none(tls_server: TlsServer) -> None:
    with Front(tls_server.port, refuse_name=True) as front:
        given: dict[str, Any] = {"trust": str(tls_server.ca_file), "timeout": 2.0}
        with_name = handshake("127.0.0.1", front.port, "localhost", **given)
        without = handshake("127.0.0.1", front.port, "localhost", **given, alpn=False)
    assert (with_name.answer, with_name.version) == (Answer.TLS, None)
    assert "no application protocol" in with_name.failure
    assert (without.failure, without.chain_verified) == ("", True)


@ENGINES
def test_the_check_passes_wherever_the_application_connects(
    tls_server: TlsServer, engine: str
) -> None:
    """With the oldest libpq at hand: below 17 it does not send the name that is refused here."""
    own = {"resilience": {"retry_deadline": 0.2}} if engine == RESILIENT else {}
    impl = {"PSYCOPG_IMPL": "python"} if find_library("pq") else {}
    with Front(tls_server.port, refuse_name=True) as front:
        entry = tls_server.database("app", engine=engine, options=own, PORT=str(front.port))
        done = python("-c", CHECK, json.dumps({"default": entry}), environ=impl)
    assert done.returncode == 0, done.stderr
    connects, checked = json.loads(done.stdout.splitlines()[-1])
    assert checked is connects
    assert connects is not all(front.named)
