"""The idle probe on real paths: a proxy, a router that forgets, a server and a pooler's way."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_resilient_pg.diagnosis.idle_probe.advice import Cure, cure, sentences, settings
from django_resilient_pg.diagnosis.idle_probe.probe import ProbeResult, probe_idle
from django_resilient_pg.diagnosis.idle_probe.sessions import How, opener
from django_resilient_pg.diagnosis.path.attempts import Connector
from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections, until
from tests.faults.haproxy import HAProxy
from tests.faults.namespace import Namespace
from tests.report_schema import validate


@contextmanager
def proxied(server: Server, **timeouts: str) -> Iterator[int]:
    with HAProxy(server, **timeouts) as proxy:
        yield proxy.port


@contextmanager
def forgetful(namespace: Namespace, port: int, seconds: int) -> Iterator[None]:
    """Have the namespace's kernel track connections, as a NAT does, and drop what it forgot."""
    settings = {
        "nf_conntrack_tcp_timeout_established": str(seconds),
        # What it does not know it takes for an intruder, not for a connection it missed.
        "nf_conntrack_tcp_loose": "0",
    }
    rules = [
        ["INPUT", "--protocol", "tcp", "--dport", str(port)],
        ["OUTPUT", "--protocol", "tcp", "--sport", str(port)],
    ]
    drop = ["--match", "conntrack", "--ctstate", "INVALID", "--jump", "DROP"]
    for rule in rules:
        namespace.run("iptables", "--wait", "--append", *rule, *drop)
    before = {}
    for name, value in settings.items():
        path = f"net.netfilter.{name}"
        before[path] = namespace.run("sysctl", "--values", path).strip()
        namespace.run("sysctl", "--write", f"{path}={value}")
    try:
        yield
    finally:
        for path, value in before.items():
            namespace.run("sysctl", "--write", f"{path}={value}")
        for rule in rules:
            namespace.run("iptables", "--wait", "--delete", *rule, *drop)


def probe(connection: Any, seconds: float, **options: Any) -> ProbeResult:
    result = probe_idle(opener(Connector.of(connection), 5.0), seconds, **options)
    assert result.sessions <= 16
    assert "None" not in " ".join(sentences(result))
    return result


@pytest.mark.slow
@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_proxy_with_a_timeout(server: Server, make_connection: Connections, engine: str) -> None:
    """HAProxy ends an idle client after 7 s; keepalives do not reach it."""
    with proxied(server, client="7s") as port:
        result = probe(make_connection(engine, PORT=port), 20.0)
    for found in (result.off, result.on):
        assert found.limited
        assert found.ending is not None
        assert found.ending.how is How.CLOSED
        assert found.died is not None
        assert found.survived < 7.1
        assert 6.9 < found.died < 7.5
        assert found.died - found.survived < 2.0
    assert result.seconds < 12.0
    assert cure(result) is Cure.SHORT_IDLENESS
    assert "CONN_MAX_AGE" in settings(result, resilient=False)


@pytest.mark.slow
@pytest.mark.needs("haproxy")
@pytest.mark.parametrize(
    ("engine", "finding"), [(RESILIENT, "resilient_pg.W128"), (STOCK, "resilient_pg.W121")]
)
def test_what_was_measured_is_judged(
    server: Server, make_connection: Connections, engine: str, finding: str
) -> None:
    """The verdict, the settings to paste and the exit status know of it."""
    out = io.StringIO()
    with proxied(server, client="3s") as port:
        made = make_connection(engine, PORT=port, CONN_MAX_AGE=600, CONN_HEALTH_CHECKS=True)
        with pytest.raises(CommandError) as failed:
            call_command(
                "checkdbconn",
                database=[made.alias],
                probe_idle=5.0,
                format="json",
                fail_level="warning",
                stdout=out,
                stderr=io.StringIO(),
            )
    assert failed.value.returncode == 1
    whole = json.loads(out.getvalue())
    validate(whole)
    (database,) = whole["databases"]
    assert "Healthy" not in database["verdict"]
    (found,) = [one for one in database["findings"] if one["id"] == finding]
    assert found["level"] == "warning"
    probe = database["probe_idle"]
    assert probe["cure"] == "short idleness"
    assert probe["sentences"]
    assert found["fix"] == probe["settings"]
    for name, value in probe["settings"].items():
        assert database["fix"][name] == value or name == "OPTIONS"


@pytest.mark.slow
@pytest.mark.needs("sysctl")
def test_a_router_that_forgets(
    namespace: Namespace, far_server: Server, make_far_connection: Connections
) -> None:
    """Packets of a connection idle for 9 s are dropped; keepalives keep it in mind."""
    with forgetful(namespace, far_server.port, 9):
        result = probe(make_far_connection(), 15.0)
    off, on = result.off, result.on
    assert off.limited
    assert off.ending is not None
    assert off.ending.how is How.SILENT
    assert off.died is not None
    assert off.survived < 9.1
    assert 8.9 < off.died < 10.5
    assert off.died - off.survived < 2.0
    assert not on.limited
    assert on.survived > 14.0
    assert cure(result) is Cure.KEEPALIVES
    assert any("silently" in sentence for sentence in sentences(result))


@pytest.mark.slow
@pytest.mark.needs("haproxy")
def test_ctrl_c_on_a_real_path(server: Server) -> None:
    """It tells what it has, and leaves nothing behind."""
    server.create_database("interrupted")
    environment = {
        **os.environ,
        "DATABASE_HOST": server.host,
        "DATABASE_NAME": "interrupted",
        "DATABASE_USER": server.user,
        "DATABASE_PASSWORD": server.password,
        "DATABASE_SSLROOTCERT": str(server.ca_file),
    }
    command = [sys.executable, "manage.py", "checkdbconn", "--probe-idle"]
    # Where the tests were started in the background Ctrl-C is ignored, and a child inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with proxied(server) as port:
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[2],
            env={**environment, "DATABASE_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            # The first one that was used in time: by then all are open.
            assert any("alive after" in line for line in process.stderr)
            assert len(server.backends("interrupted")) == 16
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            said, complaints = process.communicate(timeout=30)
            assert time.monotonic() - began < 10.0
        finally:
            process.kill()
            process.communicate()
        until(lambda: not server.backends("interrupted"), "sessions are left")
    server.drop_database("interrupted")
    assert process.returncode == 0
    assert "Traceback" not in complaints
    assert "Interrupted after" in said
    assert "connections are still alive after 2." in " ".join(said.split())
