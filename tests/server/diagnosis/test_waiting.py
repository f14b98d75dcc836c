"""How long ``checkdbconn`` waits, what ends that at once, and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.core import checks

from testproject import environment
from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT, STOCK, Connections, until
from tests.server.diagnosis.command import ROOT, UNREACHABLE, run, words
from tests.server.impostors import Impostor
from tests.server.tls import TlsServer, client_certificate, encrypt

pytestmark = pytest.mark.once_per_driver


# -- exit status -----------------------------------------------------------------------------------


AT_A_TERMINAL = """
import fcntl, json, sys, termios
from django.conf import settings
from django.core.management import execute_from_command_line
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
settings.configure(
    DATABASES={"default": json.loads(sys.argv[1])}, INSTALLED_APPS=["django_resilient_pg"]
)
execute_from_command_line(["manage.py", "checkdbconn"])
"""


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_nobody_is_asked_for_the_passphrase_of_a_key(
    tls_server: TlsServer, tmp_path: Path, engine: str
) -> None:
    """OpenSSL would ask the terminal, which would be left without an echo."""
    mine = client_certificate(tmp_path)
    encrypt(mine.key_file, "opened")
    files = {"sslcert": str(mine.cert_file), "sslkey": str(mine.key_file)}
    entry = json.dumps(tls_server.database(engine=engine, options=files))
    master, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", AT_A_TERMINAL, entry],
            cwd=ROOT, stdin=terminal, capture_output=True, text=True, timeout=60,
            start_new_session=True,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        assert 'set OPTIONS["sslpassword"] to its passphrase' in words(done.stdout)
        assert "stage TLS failed" in words(done.stdout)
        assert select.select([master], [], [], 0)[0] == []
        assert termios.tcgetattr(terminal)[3] & termios.ECHO
    finally:
        os.close(master)
        os.close(terminal)


# -- waiting ---------------------------------------------------------------------------------------


def test_it_waits_until_the_server_is_there(
    own_connections: Connections, own_server: Server
) -> None:
    alias = own_connections().alias
    own_server.stop("fast")
    starter = threading.Timer(1.5, own_server.start)
    starter.start()
    said, complaints, status = run(alias, wait=30.0)
    starter.join()
    assert status == 0
    assert said.startswith(f'"{alias}": OK')
    assert f'"{alias}": not reachable yet (stage TCP)' in complaints


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
@pytest.mark.parametrize(
    "options", [{"options": "search_path=foo"}, {"assume_role": "nobody-there"}]
)
def test_a_wait_ends_with_what_the_server_never_takes(
    make_connection: Connections, engine: str, options: dict[str, Any]
) -> None:
    began = time.monotonic()
    said, complaints, status = run(make_connection(engine, options=options).alias, wait=20.0)
    assert time.monotonic() - began < 10
    assert status == 3, said
    assert "E004" in said
    assert "not reachable yet" not in complaints


@pytest.mark.parametrize(
    "wrong", [{"HOST": "[::1]"}, {"HOST": f"/cloudsql/{'a-long-project:europe-west1:db' * 4}"}]
)
def test_a_wait_ends_with_what_is_no_address(
    make_connection: Connections, wrong: dict[str, Any]
) -> None:
    alias = make_connection(**wrong).alias
    began = time.monotonic()
    said, complaints, status = run(alias, wait=20.0)
    assert time.monotonic() - began < 10
    assert (status, "not reachable yet" in complaints) == (3, False)
    assert "stage settings failed." in words(said)
    own = [each for each in checks.run_checks(databases=[alias]) if alias in str(each.obj)]
    assert "resilient_pg.E002" in {each.id for each in own}


def test_a_wait_is_for_all_aliases_together(make_connection: Connections) -> None:
    dead = [make_connection(**UNREACHABLE).alias for _ in range(3)]
    began = time.monotonic()
    said, complaints, status = run(*dead, wait=2.0)
    assert time.monotonic() - began < 6  # one after the other
    assert status == 1
    assert [f'"{alias}": Not reachable for now' in said for alias in dead] == [True] * 3
    assert f'"{dead[0]}": not reachable yet' in complaints
    assert f'"{dead[2]}": not reachable yet' not in complaints


def started(*arguments: str, entry: dict[str, Any] | None = None) -> subprocess.Popen[str]:
    """The command, for this entry of DATABASES, in a process that may be interrupted."""
    return subprocess.Popen(
        [sys.executable, "manage.py", "checkdbconn", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment.variables(entry or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_ctrl_c_ends_a_wait_with_what_is_known() -> None:
    process = started("--wait", "60")
    assert process.stderr is not None
    assert "not reachable yet (stage" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=20)
    assert process.returncode == 1
    assert '"default": Not reachable for now' in said
    assert "Traceback" not in complaints


ENDED = 'CommandError: Interrupted by Ctrl-C: the check of "default" is incomplete.\n'


def test_ctrl_c_ends_a_survey_with_a_sentence() -> None:
    with Impostor() as silent:
        process = started(entry={"HOST": "127.0.0.1", "PORT": silent.port})
        until(lambda: silent.accepted > 1, "TCP and TLS have not been looked at")
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=20)
    assert (process.returncode, said, complaints) == (130, "", ENDED)


def test_ctrl_c_ends_a_drill_with_a_sentence(make_connection: Connections) -> None:
    process = started("--drill", entry=make_connection.server.database(engine=RESILIENT))
    assert process.stderr is not None
    assert "Drill, 1 of 4" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "")
    assert complaints.endswith(ENDED)
    assert "Traceback" not in complaints


@contextmanager
def foreign_server(words: str, encoding: str = "utf-8") -> Iterator[int]:
    """Speaks as a server with another ``lc_messages`` than English does while it starts."""
    said = b"SFATAL\0VFATAL\0C57P03\0M" + words.encode(encoding) + b"\0\0"

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                link, _ = listener.accept()
                with link, suppress(OSError):
                    link.settimeout(2)
                    if link.recv(1000)[4:8] == struct.pack("!I", 80877103):
                        link.sendall(b"N")
                        if not link.recv(1000):
                            continue
                    link.sendall(b"E" + struct.pack("!I", 4 + len(said)) + said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("own", "encoding"),
    [
        ("Das Datenbanksystem startet gerade", "utf-8"),
        ("le système de bases de données se lance", "latin-1"),
    ],
)
def test_a_refusal_in_an_unknown_language_may_pass(
    make_connection: Connections, own: str, encoding: str
) -> None:
    """psycopg2 takes it for UTF-8, whatever it is."""
    with foreign_server(own, encoding) as port:
        options = {"sslmode": "prefer", "gssencmode": "disable"}
        entry = {"HOST": "127.0.0.1", "PORT": str(port)}
        alias = make_connection(options=options, **entry).alias
        said, complaints, status = run(alias, wait=1.0)
    assert status == 1
    if encoding == "utf-8" or DRIVER == "psycopg2":  # psycopg 3 replaces what it cannot decode
        assert own[1:] in words(said)
    assert "not reachable yet (stage authentication)" in complaints
    assert "lc_messages" in said


# -- what it costs, what it gives away -------------------------------------------------------------


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_without_waiting_a_server_that_is_down_takes_less_than_a_second(
    own_connections: Connections, own_server: Server, engine: str
) -> None:
    alias = own_connections(engine).alias
    own_server.stop("fast")
    began = time.monotonic()
    assert run(alias, wait=0)[2] == 1
    assert time.monotonic() - began < 1


def test_a_port_that_stays_silent_takes_a_bounded_time(make_connection: Connections) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        began = time.monotonic()
        said, _, status = run(make_connection(HOST="127.0.0.1", PORT=port).alias)
    assert status == 1
    assert "Not reachable for now: stage TLS failed." in said
    assert time.monotonic() - began < 25
