"""examples/compose: its project behind its PgBouncer, without the containers."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testproject.passwords import verifier
from testproject.postgres import Server
from tests.faults.pgbouncer import PgBouncer

pytestmark = [pytest.mark.once, pytest.mark.needs("pgbouncer")]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "compose"
# What the tests' PgBouncer has to have otherwise, or what an old one does not know.
OTHERWISE = {"listen_addr", "listen_port", "auth_file", "max_prepared_statements"}
# One request for each line of its input.
PROGRAM = """
import sys, django
django.setup()
from django.test import Client
for line in sys.stdin:
    answer = Client(headers={"host": "localhost"}).get(line.strip())
    print(answer.status_code, answer.content.decode(), flush=True)
"""

Get = Callable[[str], str]


def settings() -> dict[str, Any]:
    ini = configparser.ConfigParser()
    ini.read(EXAMPLE / "pgbouncer" / "pgbouncer.ini")
    return {name: value for name, value in ini["pgbouncer"].items() if name not in OTHERWISE}


@pytest.fixture
def bouncer(server: Server) -> Iterator[PgBouncer]:
    server.execute(f"CREATE ROLE shop LOGIN PASSWORD '{verifier(server.password)}'")
    server.execute("CREATE DATABASE shop OWNER shop")
    with PgBouncer(server, database="user=shop", **settings()) as made:
        yield made
    server.drop_database("shop")
    server.execute("DROP ROLE shop")


@pytest.fixture
def get(bouncer: PgBouncer, server: Server, tmp_path: Path) -> Iterator[Get]:
    """Ask the example's project, in a process of its own."""
    for name, secret in (("password", server.password), ("secret_key", "for a test")):
        (tmp_path / name).write_text(secret, encoding="utf-8")
    entry = bouncer.database()
    environ = {
        **os.environ,
        "DATABASE_HOST": str(entry["HOST"]),
        "DATABASE_PORT": str(entry["PORT"]),
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "PYTHONPATH": os.pathsep.join([str(EXAMPLE / "web"), *sys.path]),
        "SECRETS": str(tmp_path),
    }
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests
        assert answers

        def ask(path: str) -> str:
            requests.write(f"{path}\n")
            requests.flush()
            return answers.readline()

        yield ask
        requests.close()


def test_the_project_answers_whatever_is_broken(
    get: Get, bouncer: PgBouncer, server: Server
) -> None:
    assert get("/live/") == "200 live\n"
    assert get("/").startswith("200 ")
    server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'shop'"
    )
    assert get("/").startswith("200 ")
    bouncer.restart()
    assert get("/").startswith("200 ")
