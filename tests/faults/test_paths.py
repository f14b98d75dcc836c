"""What lies between, named rightly: a real pooler, a real proxy, the kernel's own NAT."""

from __future__ import annotations

from typing import Any

import pytest

from django_resilient_pg.diagnosis.findings import findings
from django_resilient_pg.diagnosis.survey.gather import survey
from django_resilient_pg.facts import Path
from testproject.cluster import free_port
from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections
from tests.faults.haproxy import HAProxy
from tests.faults.namespace import Namespace
from tests.faults.pgbouncer import PgBouncer

ENGINES = pytest.mark.parametrize("engine", [RESILIENT, STOCK])


def seen(connection: Any, path: Path, evidence: str) -> None:
    """Both the survey and the engine itself say so, over TLS."""
    found = survey(connection.alias).facts
    assert found is not None
    views = [found]
    if connection.settings_dict["ENGINE"] == RESILIENT:
        connection.ensure_connection()
        views.append(connection.resilience.facts)
    for each in views:
        assert each.path is path
        assert evidence in each.path_evidence
        assert each.socket.tls is True


@pytest.mark.needs("pgbouncer")
@ENGINES
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_pgbouncer(server: Server, make_connection: Connections, engine: str, mode: str) -> None:
    with PgBouncer(server, pool_mode=mode) as bouncer:
        connection = make_connection(engine, PORT=str(bouncer.port))
        seen(connection, Path.POOLER, "a pooler is in between")
        connection.close()


@pytest.mark.needs("haproxy")
@ENGINES
def test_haproxy(server: Server, make_connection: Connections, engine: str) -> None:
    with HAProxy(server) as proxy:
        connection = make_connection(engine, PORT=str(proxy.port))
        seen(connection, Path.NAT_OR_PROXY, "NAT or a TCP proxy is in between")
        connection.close()


@ENGINES
def test_nothing_between(make_far_connection: Connections, engine: str) -> None:
    seen(make_far_connection(engine), Path.DIRECT, "Both ends see the same addresses")


@ENGINES
def test_the_servers_address_translated(
    namespace: Namespace, far_server: Server, make_far_connection: Connections, engine: str
) -> None:
    """DNAT: the client's own end is what it was, the server's is not."""
    port = free_port()
    with namespace.translated(port, far_server.port):
        connection = make_far_connection(engine, PORT=str(port))
        seen(connection, Path.VIRTUAL_IP, f"{far_server.port} answers")
        connection.close()


@ENGINES
def test_the_clients_address_translated(
    namespace: Namespace, far_server: Server, make_far_connection: Connections, engine: str
) -> None:
    """SNAT as well."""
    port = free_port()
    with namespace.translated(port, far_server.port, source=True):
        connection = make_far_connection(engine, PORT=str(port))
        seen(connection, Path.NAT_OR_PROXY, f"sees the client at {namespace.outer}:61")
        connection.close()


def test_large_packets_that_vanish(
    make_far_connection: Connections, far_server: Server, namespace: Namespace
) -> None:
    """Statements with short answers work, the others hang."""
    alias = make_far_connection(STOCK, options={"sslmode": "disable"}).alias

    def found() -> list[str]:
        return [one.id for one in findings(survey(alias, 2.0))]

    assert "resilient_pg.W134" not in found()
    with namespace.fault(far_server.port, "large"):
        assert "resilient_pg.W134" in found()
