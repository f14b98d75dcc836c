"""The command, against real servers in the state it describes."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
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
from django.core.management import CommandError, call_command
from django.db import connections, transaction

from django_resilient_pg import signals
from django_resilient_pg.checks.databases import check_databases, check_settings
from django_resilient_pg.diagnosis.findings import Level
from django_resilient_pg.diagnosis.findings.base import PAGE
from django_resilient_pg.diagnosis.report import as_text
from django_resilient_pg.diagnosis.report.inspection import Inspection
from django_resilient_pg.diagnosis.survey.gather import survey
from testproject import environment
from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT, STOCK, Connections, until
from tests.report_schema import validate
from tests.server.impostors import Asker, Impostor
from tests.server.tls import TlsServer, client_certificate, encrypt

pytestmark = pytest.mark.once_per_driver

ROOT = Path(__file__).resolve().parents[2]
UNREACHABLE: dict[str, Any] = {"HOST": "localhost", "PORT": "1"}


def run(*aliases: str, **options: Any) -> tuple[str, str, int]:
    """What it printed, what it complained of, and its exit status."""
    out, complaints, status = io.StringIO(), io.StringIO(), 0
    try:
        call_command(
            "checkdbconn",
            database=list(aliases),
            stdout=out,
            stderr=complaints,
            **{"no_color": True, **options},
        )
    except CommandError as error:
        complaints.write(str(error))
        status = error.returncode
    return out.getvalue(), complaints.getvalue(), status


def words(text: str) -> str:
    return " ".join(text.split())


def document(alias: str, **options: Any) -> dict[str, Any]:
    said, _, status = run(alias, format="json", **options)
    whole: dict[str, Any] = json.loads(said)
    assert whole["exit_status"] == status
    return whole


# -- the report -------------------------------------------------------------------------------


def test_it_says_what_lies_between(make_connection: Connections) -> None:
    connection = make_connection(CONN_MAX_AGE=600)
    said, complaints, status = run(connection.alias, verbosity=2)
    assert (status, complaints) == (0, "")
    said = words(said)
    assert said.startswith(f'"{connection.alias}": OK')
    for part in (
        "a primary",
        "path direct",
        "TLS TLSv1.",
        "idle 20 s, interval 5 s, count 3, user timeout 30 s",
        "connection age 600 s at most",
    ):
        assert part in said


def test_the_verdict_comes_first_then_findings_by_level_then_facts(
    make_connection: Connections,
) -> None:
    said, _, _ = run(make_connection(STOCK, CONN_MAX_AGE=None).alias, verbosity=2)
    lines = said.splitlines()
    assert "warning" in lines[0]
    order = [lines.index(name) for name in ("Warnings", "Facts", "The seven questions")]
    assert order == sorted(order)
    assert max(map(len, lines)) <= 80
    assert "Fix:" in said
    assert f"\n        {PAGE}#w" in said
    assert len([line for line in lines if re.match(r"  \d\. .+\?", line)]) == 7


def test_colours_change_nothing_else(make_connection: Connections) -> None:
    alias = make_connection(STOCK).alias
    plain, _, _ = run(alias, verbosity=0)
    coloured, _, _ = run(alias, verbosity=0, no_color=False, force_color=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


def test_the_ordinary_report_is_short(make_connection: Connections) -> None:
    """All is well: the verdict, and how to see more. What was asked for comes right after it."""
    alias = make_connection(CONN_MAX_AGE=600).alias
    said, _, _ = run(alias)
    assert len(said.splitlines()) < 20
    asked, _, _ = run(alias, sslmodes=True)
    lines = asked.splitlines()
    assert lines.index("sslmode") == 2
    assert "Facts" not in lines


def test_progress_is_not_shown_as_a_failure(own_connections: Connections) -> None:
    own_connections.server.stop()
    complaints = io.StringIO()
    with pytest.raises(CommandError):
        call_command(
            "checkdbconn",
            database=own_connections(CONN_MAX_AGE=600).alias,
            wait=0.2,
            stdout=io.StringIO(),
            stderr=complaints,
            force_color=True,
        )
    assert "not reachable yet" in complaints.getvalue()
    assert "\x1b[" not in complaints.getvalue()


def test_the_environment_can_switch_colours_off(
    make_connection: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_COLORS", "nocolor")
    said, _, _ = run(make_connection(STOCK).alias, no_color=False, force_color=True)
    assert "\x1b[" not in said


def test_no_verbosity_leaves_the_verdict_and_what_is_wrong(make_connection: Connections) -> None:
    alias = make_connection(STOCK, CONN_MAX_AGE=None).alias
    quiet, _, _ = run(alias, verbosity=0)
    ordinary, _, _ = run(alias)
    loud, _, _ = run(alias, verbosity=2)
    assert "Warnings" in quiet
    assert "Facts" not in quiet
    assert len(quiet) < len(ordinary) < len(loud)


def test_what_reaches_the_fail_level_is_named_in_any_case(make_connection: Connections) -> None:
    alias = make_connection(CONN_MAX_AGE=0).alias
    said, complaints, status = run(alias, verbosity=0, fail_level="info")
    assert (status, complaints) == (1, f'Check failed: "{alias}".')
    assert re.search(r"Worth knowing\n  I\d{3}  ", said)
    assert "Worth knowing" not in run(alias, verbosity=0, fail_level="warning")[0]


def test_it_finds_the_servers_idle_timeout(
    own_connections: Connections, own_server: Server
) -> None:
    own_server.configure(idle_session_timeout="3s")
    said = words(run(own_connections(CONN_MAX_AGE=600).alias, verbosity=2)[0])
    assert "idle_session_timeout of the server (3 s)" in said
    assert "connection age 1.5 s at most, by " in said


def test_it_reads_keepalives_back_from_the_socket(make_connection: Connections) -> None:
    options = {"keepalives_idle": 77, "tcp_user_timeout": 41000}
    said = words(run(make_connection(RESILIENT, options=options).alias, verbosity=2)[0])
    assert "on the socket: idle 77 s" in said
    assert "user timeout 41 s" in said


def test_it_works_with_djangos_own_engine(make_connection: Connections) -> None:
    said, _, status = run(make_connection(STOCK).alias, verbosity=2)
    assert status == 0
    assert "user timeout not set" in words(said)


def test_several_aliases_in_one_run(make_connection: Connections) -> None:
    good, bad = make_connection(), make_connection(**UNREACHABLE)
    said, complaints, status = run(good.alias, bad.alias)
    assert f'"{good.alias}": OK' in said
    assert f'"{bad.alias}": Not reachable' in said
    assert status == 1
    assert complaints == f'Check failed: "{bad.alias}".'


def test_what_is_not_postgresql_is_left_out_and_said_so(make_connection: Connections) -> None:
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    alias = make_connection.register("lite", sqlite).alias
    good = make_connection(CONN_MAX_AGE=60).alias
    said, complaints, status = run(alias, good, good)
    assert said.count(f'"{good}": OK') == 1  # named twice, checked once
    assert status == 3
    assert complaints.endswith('"lite" is not PostgreSQL (sqlite): choose another --database.')
    said, complaints, status = run(alias, format="json")
    assert status == 3
    assert json.loads(said)["exit_status"] == 3


def test_a_gate_that_checks_nothing_is_not_green(make_connection: Connections) -> None:
    kept, default = dict(connections.settings), connections["default"]
    connections.settings.clear()
    connections.settings["default"] = {**kept["default"], "ENGINE": "django.db.backends.dummy"}
    del connections["default"]
    try:
        _, complaints, status = run()
    finally:
        connections.settings.clear()
        connections.settings.update(kept)
        connections["default"] = default
    assert status == 3
    assert "no entry of DATABASES is PostgreSQL" in complaints


def test_a_transaction_that_stays_idle_close_to_the_servers_limit(
    make_connection: Connections,
) -> None:
    """The limit is the server's, the transaction one of the application's."""
    limit = {"options": "-c idle_in_transaction_session_timeout=2s"}
    alias, busy = make_connection(STOCK, options=limit).alias, make_connection(STOCK)

    def found() -> list[str]:
        return [one["id"] for one in document(alias)["databases"][0]["findings"]]

    assert "resilient_pg.W147" not in found()
    with transaction.atomic(using=busy.alias), busy.cursor() as cursor:
        cursor.execute("SELECT 1")
        until(lambda: "resilient_pg.W147" in found(), "it is not found")


# -- exit status ------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_a_server_that_is_down_is_exit_status_1(
    own_connections: Connections, own_server: Server, engine: str
) -> None:
    alias = own_connections(engine).alias
    own_server.stop("fast")
    said, complaints, status = run(alias)
    assert status == 1
    assert f'"{alias}": Not reachable for now: stage TCP failed.' in said
    assert f'"{alias}"' in complaints
    assert "not run" in said


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [
        ("authentication", {"PASSWORD": "not-this-one"}),
        ("database", {"NAME": "nowhere"}),
        ("settings", {"OPTIONS": {"resilience": {"read_retry": 3}}}),
    ],
)
def test_what_waiting_does_not_cure_is_exit_status_3(
    make_connection: Connections, stage: str, wrong: dict[str, Any]
) -> None:
    began = time.monotonic()
    said, _, status = run(make_connection(**wrong).alias, wait=30.0)
    assert status == 3
    assert f"until the configuration is corrected: stage {stage} failed." in words(said)
    assert time.monotonic() - began < 15
    assert "not-this-one" not in said


def test_the_fail_level_decides_whether_findings_are_a_failure(
    make_connection: Connections,
) -> None:
    alias = make_connection(STOCK, CONN_MAX_AGE=None).alias
    assert [run(alias, fail_level=level)[2] for level in ("error", "warning", "info")] == [0, 1, 1]
    # As Django's check has them.
    names = ("CRITICAL", "critical", "ERROR", "WARNING", "Info")
    assert [run(alias, fail_level=level)[2] for level in names] == [0, 0, 0, 1, 1]


def _shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "checkdbconn", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["--database", "defualt"], 2, "defualt"),
        (["--fail-level", "fatal"], 2, "fatal"),
        (["--probe-idle", "abc"], 2, "abc"),
        (["--probe-idle", "1"], 2, "must be a number from 5 to 86400 seconds"),
        ([], 1, 'Check failed: "default".'),
    ],
)
def test_the_exit_status_reaches_the_shell(
    arguments: list[str], status: int, complaint: str
) -> None:
    done = _shell(*arguments)
    assert done.returncode == status, done.stderr
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"probe_idle": 1.0}, "--probe-idle: the value is 1.0, but must be a number from 5"),
        ({"probe_idle": float("nan")}, "must be a number from 5 to 86400 seconds."),
        ({"probe_idle": 1e6}, "must be a number from 5 to 86400 seconds."),
        ({"wait": -1.0}, "must be a number from 0 to 86400 seconds. The nearest valid value is 0."),
    ],
)
def test_an_option_out_of_bounds_is_named_before_anything_runs(
    make_connection: Connections, options: dict[str, Any], complaint: str
) -> None:
    said, complaints, status = run(make_connection(**UNREACHABLE).alias, **options)
    assert (said, status) == ("", 2)
    assert complaint in complaints


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"database": "defualt"},
            '--database: unknown value "defualt"; the closest valid value is "default".',
        ),
        (
            {"database": ["defualt"]},
            '--database: unknown value "defualt"; the closest valid value is',
        ),
        ({"database": [5]}, '--database: unknown value "5"; the closest valid value is "'),
        (
            {"fail_level": "fatal"},
            '--fail-level: unknown value "fatal"; the closest valid value is "',
        ),
        (
            {"fail_level": "warn"},
            '--fail-level: unknown value "warn"; the closest valid value is "warning".',
        ),
        ({"format": "jsn"}, '--format: unknown value "jsn"; the closest valid value is "json".'),
        (
            {"fail_level": ["error"]},
            """--fail-level: unknown value "['error']"; the closest valid value is""",
        ),
        (
            {"format": {"text"}},
            """--format: unknown value "{'text'}"; the closest valid value is""",
        ),
        ({"database": [None]}, '--database: unknown value "None"; the closest valid value is "'),
        ({"wait": [5]}, "--wait: the value is [5], but must be a number"),
        ({"probe_idle": [9, 9]}, "--probe-idle: the value is [9, 9], but must be"),
        ({"verbosity": [1]}, "--verbosity: the value is [1], but must be"),
        (
            {"verbosity": "loud"},
            "--verbosity: the value is 'loud', but must be a whole number",
        ),
        ({"verbosity": 7}, "--verbosity: the value is 7, but must be a whole number from 0 to 3."),
    ],
)
def test_call_command_is_told_what_is_wrong(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("checkdbconn", stdout=io.StringIO(), stderr=io.StringIO(), **options)
    assert caught.value.returncode == 2
    assert str(caught.value).startswith(complaint)


def test_call_command_takes_texts(make_connection: Connections) -> None:
    alias, out = make_connection().alias, io.StringIO()
    options = {"database": alias, "verbosity": "0", "wait": "1", "no_color": True}
    call_command("checkdbconn", stdout=out, stderr=io.StringIO(), **options)
    assert out.getvalue().startswith(f'"{alias}": ')
    assert "Facts" not in out.getvalue()


def test_call_command_takes_none_for_what_is_not_given(make_connection: Connections) -> None:
    alias = make_connection(CONN_MAX_AGE=60).alias
    given = dict.fromkeys(("format", "fail_level", "verbosity", "wait", "probe_idle", "fix"))
    assert run(alias, **given) == run(alias)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "CONN_MAX_AGE is a text": (
        {"CONN_MAX_AGE": "600"},
        'CONN_MAX_AGE of the database "{}" is "600", a text: set the number 600, without quotes.',
    ),
    "OPTIONS is None": ({"OPTIONS": None}, 'OPTIONS of the database "{}" is None'),
    "OPTIONS is a text": ({"OPTIONS": "sslmode=require"}, 'OPTIONS of the database "{}" is a str'),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_settings_of_the_wrong_type_are_refused(
    make_connection: Connections, engine: str, what: str
) -> None:
    changes, complaint = BROKEN[what]
    entry = {**make_connection.server.database(engine=engine), **changes}
    alias = make_connection.register("broken", entry).alias
    said, _, status = run(alias, wait=10.0)
    assert status == 3
    assert complaint.format(alias) in words(said)
    assert "keepalives none" not in words(said)
    (database,) = document(alias)["databases"]
    assert [each["id"] for each in database["findings"]] == ["resilient_pg.E001"]
    for databases in (None, [alias]):
        own = [each for each in our_checks(databases) if alias in str(each.obj)]
        assert [str(each.id) for each in own] == ["resilient_pg.E001"] * (databases is None)


def our_checks(databases: list[str] | None) -> list[checks.CheckMessage]:
    """Django's own check of a database cannot cope with these, and is not ours."""
    return check_settings() if databases is None else check_databases(databases)


@pytest.mark.parametrize(
    ("engine", "part"),
    [
        ("django.db.backends.postgresq", 'Did you mean "django.db.backends.postgresql"?'),
        ("no.such.engine", 'ENGINE is "no.such.engine", which cannot be loaded: No module named'),
        ("postgres://app:much-too-secret@db/app", "ENGINE is a URL"),
    ],
)
def test_an_engine_that_cannot_be_loaded_is_refused_and_the_others_are_checked(
    make_connection: Connections, engine: str, part: str
) -> None:
    good = make_connection(CONN_MAX_AGE=60)
    connections.settings["typo"] = {**connections.settings[good.alias], "ENGINE": engine}
    try:
        said, complaints, status = run("typo", good.alias, sslmodes=True, fix=True, verbosity=3)
        assert status == 3
        assert '"typo": Not reachable until the configuration is corrected' in words(said)
        assert part in words(said)
        assert "much-too-secret" not in said + complaints
        assert f'"{good.alias}": OK' in said
        assert complaints == 'Check failed: "typo".'
    finally:
        del connections.settings["typo"]


def test_a_refused_probe_leaves_the_report(make_connection: Connections) -> None:
    found = Inspection.of(survey(make_connection(CONN_MAX_AGE=60).alias), "Too many connections.")
    assert found.verdict == "Reachable, with a refused idle probe."
    assert found.exit_status(Level.ERROR) == 1
    text = " ".join(line.text for line in as_text.report(found))
    assert "Not measured: Too many connections." in text


def test_a_drill_that_fails_is_not_healthy(make_connection: Connections) -> None:
    alias = make_connection(STOCK, CONN_MAX_AGE=0).alias
    said, complaints, status = run(alias, drill=True)
    assert status == 1
    assert "and a failed drill." in words(said)
    assert "Drill, 1 of 4: read" in complaints


LOGIN: dict[str, str] = {}


def current(alias: str) -> dict[str, str]:
    return LOGIN


def test_the_user_is_the_one_that_the_credentials_name(make_connection: Connections) -> None:
    alias = make_connection(USER="somebody-else", credentials=f"{__name__}.current").alias
    LOGIN.update(user="app", password=make_connection.server.password)
    said, _, status = run(alias, verbosity=2)
    assert status == 0, said
    assert 'Logged in as "app"' in words(said)
    (database,) = document(alias)["databases"]
    assert database["survey"]["target"]["user"] == "app"
    assert 'as "app"' in database["facts"]["target"]


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


# -- waiting ----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_password_that_is_a_word_hides_no_reason(
    make_connection: Connections, engine: str
) -> None:
    said, _, status = run(make_connection(engine, PASSWORD="password").alias)
    assert status == 3
    assert 'Password authentication failed for user "app".' in words(said)


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


@pytest.mark.parametrize("mode", ["closed", "silent"])
def test_no_mode_is_tried_where_none_would_change_anything(
    make_connection: Connections, mode: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if mode == "silent" else 1
        alias = make_connection(HOST="127.0.0.1", PORT=str(port)).alias
        began = time.monotonic()
        said = words(run(alias, sslmodes=True)[0])
    assert time.monotonic() - began < 8
    stage = "TLS" if mode == "silent" else "TCP"
    assert f"No sslmode was tried: stage {stage} fails in every mode." in said


def test_a_misspelt_option_is_told_with_the_right_one(make_connection: Connections) -> None:
    alias = make_connection(STOCK, options={"conect_timeout": 5}).alias
    said = words(run(alias, verbosity=2)[0])
    assert 'Did you mean "connect_timeout"?' in said
    assert "certificate localhost" not in said
    assert "No TLS handshake was made." in said


FRESH = """
import json, sys
from django.conf import settings
settings.configure(DATABASES={"default": json.loads(sys.argv[1])}, INSTALLED_APPS=[])
import django
django.setup()
from django_resilient_pg.diagnosis.report.details import details
from django_resilient_pg.diagnosis.survey.gather import survey
found = survey("default")
stages = {each.name: each.seconds for each in found.walk.stages}
print(json.dumps([found.walk.connect_seconds, stages, dict(details(found))]))
"""


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_a_time_is_shown_where_it_was_measured(make_connection: Connections, engine: str) -> None:
    """No part of the driver's login is: TCP and TLS are those of connections of their own."""
    entry = make_connection.server.database(engine=engine)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, json.dumps(entry)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    whole, stages, facts = json.loads(done.stdout)
    assert stages["authentication"] is None
    assert facts["connecting"] == f"{whole * 1000:.1f} ms for the driver's whole login"
    shown = r"(DNS [\d.]+ ms, )?TCP [\d.]+ ms, TLS [\d.]+ ms \(on connections of their own\)"
    assert re.fullmatch(shown, facts["connection stages"])


# -- JSON -------------------------------------------------------------------------------------


def test_json_has_the_documented_schema(make_connection: Connections) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    whole = document(make_connection(STOCK).alias, sslmodes=True, drill=True, verbosity=2)
    validate(whole)
    validate(document(make_connection(**UNREACHABLE).alias))
    with pytest.raises(jsonschema.ValidationError):
        validate({**whole, "schema": 99})
    (database,) = whole["databases"]
    for name in ("survey", "sslmodes", "drill"):
        changed = {**whole, "databases": [{**database, name: {**database[name], "new": 1}}]}
        with pytest.raises(jsonschema.ValidationError):
            validate(changed)
    assert database["sslmodes"]["recommended"] == "verify-full"
    assert database["survey"]["facts"]["server_version"] >= 140000


def test_json_and_text_tell_the_same_findings(make_connection: Connections) -> None:
    alias = make_connection(STOCK, CONN_MAX_AGE=None).alias
    (database,) = document(alias)["databases"]
    said = words(run(alias)[0])
    assert database["findings"]
    for finding in database["findings"]:
        assert words(finding["message"]) in said
        assert finding["id"].removeprefix("resilient_pg.") in said


# -- what it costs, what it gives away --------------------------------------------------------


def test_at_most_twelve_round_trips_and_a_second(
    own_connections: Connections, own_server: Server
) -> None:
    own_server.configure(log_statement="all", log_line_prefix="[%c] ")
    connection = own_connections()
    before = len(own_server.log_text())
    began = time.process_time()  # what it takes beside waiting for answers
    _, _, status = run(connection.alias)
    spent = time.process_time() - began
    assert status == 0
    logged = own_server.log_text()[before:]
    asked = re.findall(r"LOG:  (?:statement|execute [^:]*):", logged)
    # The walk and the server's own state: at least these, else the log was not read.
    assert 3 <= len(asked) <= 12
    assert spent < 1


PASSWORD = "uncommon-secret-of-this-test"


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_no_password_is_ever_shown(make_connection: Connections, engine: str) -> None:
    connection = make_connection(engine)
    own = str(connection.settings_dict["PASSWORD"])
    wrong = make_connection(engine, PASSWORD=PASSWORD)
    for alias in (connection.alias, wrong.alias):
        for shape in ("text", "json"):
            said, complaints, _ = run(
                alias, format=shape, sslmodes=True, drill=True, fix=True, verbosity=3
            )
            assert own not in said + complaints
            assert PASSWORD not in said + complaints
            assert "password=" not in said + complaints


PEM = f"-----BEGIN PRIVATE KEY-----\n{PASSWORD}\n-----END PRIVATE KEY-----\n"
PASTED: dict[str, dict[str, Any]] = {
    "URL as HOST": {"HOST": f"postgres://app:{PASSWORD}@localhost:5432/app"},
    "login in HOST": {"HOST": f"app:{PASSWORD}@localhost"},
    "path behind HOST": {"HOST": f"localhost/app?password={PASSWORD}"},
    "parameters as HOST": {"HOST": f"localhost password={PASSWORD}"},
    "URL as hostaddr": {"OPTIONS": {"hostaddr": f"postgres://app:{PASSWORD}@127.0.0.1"}},
    "path behind PORT": {"PORT": f"5432/app?password={PASSWORD}"},
    "password as PORT": {"PORT": PASSWORD},
    "parameters as NAME": {"NAME": f"dbname=app password={PASSWORD}"},
    "long parameters as NAME": {"NAME": f"host=db.internal.example dbname=app password={PASSWORD}"},
    "URL as NAME": {"NAME": f"postgres://app:{PASSWORD}@localhost:5432/app"},
    "login as USER": {"USER": f"app:{PASSWORD}@localhost"},
    "URL as service": {"OPTIONS": {"service": f"postgres://app:{PASSWORD}@localhost/app"}},
    "URL as sslmode": {"OPTIONS": {"sslmode": f"postgres://app:{PASSWORD}@localhost/app"}},
    "parameters as timeout": {"OPTIONS": {"connect_timeout": f"5 password={PASSWORD}"}},
    "URL as sslrootcert": {"OPTIONS": {"sslrootcert": f"postgres://app:{PASSWORD}@db/app"}},
    "key as sslkey": {"OPTIONS": {"sslkey": PEM}},
    "certificate as sslcert": {"OPTIONS": {"sslcert": PEM.replace("PRIVATE KEY", "CERTIFICATE")}},
    "key in one line": {"OPTIONS": {"sslrootcert": PEM.replace("\n", "\\n")}},
    "parameters behind NAME": {"NAME": f"app;Pwd={PASSWORD}"},
    "parameters as assumed role": {"OPTIONS": {"assume_role": f"password={PASSWORD}"}},
    "parameters as role": {"OPTIONS": {"target_session_attrs": f"any password={PASSWORD}"}},
}


@pytest.mark.parametrize("what", PASTED)
@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_what_was_pasted_into_the_wrong_place_is_not_shown(
    make_connection: Connections, engine: str, what: str
) -> None:
    """A URL or a connection string instead of its parts: refused at once, and never repeated."""
    alias = make_connection(engine, **PASTED[what]).alias
    for shape in ("text", "json"):
        said, complaints, status = run(
            alias, format=shape, sslmodes=True, drill=True, fix=True, verbosity=3, wait=5.0
        )
        assert PASSWORD not in said + complaints
        assert "not reachable yet" not in complaints
        assert status == 3
    for databases in (None, [alias]):
        messages = checks.run_checks(databases=databases)
        assert PASSWORD not in str([(each.msg, each.hint) for each in messages])
        own = [each for each in messages if alias in str(each.obj)]
        assert {"resilient_pg.E001", "resilient_pg.E002"} & {str(each.id) for each in own}


LOGGED = [*PASTED, "URL as PGHOST"]


@pytest.mark.parametrize("what", LOGGED)
def test_what_was_pasted_into_the_wrong_place_is_neither_logged_nor_sent(
    make_connection: Connections,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """The driver's own message repeats the host that it cannot find."""
    entry = PASTED.get(what, {"HOST": ""})
    if "PGHOST" in what:
        monkeypatch.setenv("PGHOST", str(PASTED["URL as HOST"]["HOST"]))
    told: list[str] = []

    def receive(record: object, **given: object) -> None:
        told.append(repr(record))

    connection = make_connection(retry_deadline=0.3, **entry)
    signals.connect_retried.connect(receive)
    try:
        with caplog.at_level(logging.DEBUG, "django_resilient_pg"), suppress(Exception):
            connection.ensure_connection()
    finally:
        signals.connect_retried.disconnect(receive)
    lines = [record.getMessage() for record in caplog.records if record.name != "django.db"]
    assert PASSWORD not in " ".join([*lines, *told])
    if what.startswith("URL as HOST"):
        assert lines or told


def test_a_fresh_project_with_the_name_of_sqlite(make_connection: Connections) -> None:
    """As ``startproject`` leaves it when only the engine is changed."""
    for engine in (STOCK, RESILIENT):
        for name in (ROOT / "db.sqlite3", str(ROOT / "db.sqlite3")):
            said, _, status = run(make_connection(engine, NAME=name).alias)
            assert status == 3
            assert "db.sqlite3" in words(said)
            assert "the path of an SQLite file as startproject sets it" in words(said)


def test_what_the_engine_adds_is_not_said_to_be_from_the_settings(
    make_connection: Connections,
) -> None:
    (database,) = document(make_connection(options={"keepalives_idle": 33}).alias)["databases"]
    sources = dict(database["survey"]["target"]["sources"])
    assert sources["connect_timeout"] == "the defaults of the engine django_resilient_pg"
    assert sources["keepalives_idle"] == sources["host"] == "DATABASES"
    (database,) = document(make_connection(STOCK).alias)["databases"]
    assert set(dict(database["survey"]["target"]["sources"]).values()) == {"DATABASES"}


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_without_waiting_a_server_that_is_down_takes_less_than_a_second(
    own_connections: Connections, own_server: Server, engine: str
) -> None:
    alias = own_connections(engine).alias
    own_server.stop("fast")
    began = time.monotonic()
    assert run(alias, wait=0)[2] == 1
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_what_stands_behind_the_user_is_not_shown(
    make_connection: Connections, server: Server, engine: str
) -> None:
    """It is no error: the name of a role may have a ":" in it."""
    wrong = make_connection(engine, USER=f"app:{PASSWORD}").alias
    for shape in ("text", "json"):
        said, complaints, status = run(wrong, format=shape, sslmodes=True, verbosity=3)
        assert PASSWORD not in said + complaints
        assert ("app:***" in said, status) == (True, 3)
    server.execute(f"CREATE ROLE \"app:read\" LOGIN PASSWORD '{server.password}'")
    try:
        alias = make_connection(engine, USER="app:read").alias
        said, _, status = run(alias)
        assert status == 0
        assert "credentials" not in said
    finally:
        server.execute('DROP ROLE "app:read"')


def test_a_port_that_stays_silent_takes_a_bounded_time(make_connection: Connections) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        began = time.monotonic()
        said, _, status = run(make_connection(HOST="127.0.0.1", PORT=port).alias)
    assert status == 1
    assert "Not reachable for now: stage TLS failed." in said
    assert time.monotonic() - began < 25


def test_settings_to_paste_are_only_those_that_differ(make_connection: Connections) -> None:
    healthy = make_connection(CONN_MAX_AGE=60)
    assert "# No settings to change." in run(healthy.alias, fix=True)[0]
    flawed = make_connection(STOCK, CONN_MAX_AGE=60)
    block = run(flawed.alias, fix=True)[0].split("Settings to paste\n")[1].split("\n\n")[0]
    kept = {"sslmode": "verify-full"}
    entry: dict[str, Any] = {"CONN_MAX_AGE": 60, "OPTIONS": dict(kept)}
    code = "\n".join(line[2:] for line in block.splitlines())
    exec(code, {"DATABASES": {flawed.alias: entry}})
    (database,) = document(flawed.alias)["databases"]
    assert entry["OPTIONS"] == {**kept, **database["fix"]["OPTIONS"]}
    assert entry["OPTIONS"]["tcp_user_timeout"] == 30000


ONCE_PASTED = [
    pytest.param({}, id="kept by threads"),
    pytest.param({"pool": True}, marks=pytest.mark.psycopg3, id="a pool as it comes"),
    pytest.param(
        {"pool": {"name": "web", "min_size": 2}}, marks=pytest.mark.psycopg3, id="a pool of its own"
    ),
]


@pytest.mark.parametrize("own", ONCE_PASTED)
def test_settings_once_pasted_leave_nothing_to_paste(
    make_connection: Connections, own: dict[str, Any]
) -> None:
    """The command itself, run again on what it said."""
    options = {"options": "-c idle_session_timeout=30s", **own}
    flawed = make_connection(STOCK, options=options, CONN_MAX_AGE=0)
    entry = connections.settings[flawed.alias]
    before = run(flawed.alias, fix=True, fail_level="warning")
    block = before[0].split("Settings to paste\n")[1].split("\n\n")[0]
    assert before[2] == 1
    exec("\n".join(line[2:] for line in block.splitlines()), {"DATABASES": {flawed.alias: entry}})
    assert entry["CONN_MAX_AGE"] == (0 if own else 15)
    if isinstance(own.get("pool"), dict):
        assert entry["OPTIONS"]["pool"]["name"] == "web"
    del connections[flawed.alias]
    said, _, status = run(flawed.alias, fix=True, fail_level="warning")
    assert status == 0, said
    assert "# No settings to change." in said


# -- what peers send --------------------------------------------------------------------------

NASTY = "\x1b[2J\x1b]0;owned\x07 \u202eterces\u202c \x9b31m \x08\x08"


@pytest.mark.parametrize("options", [{}, {"verbosity": 2}, {"sslmodes": True}, {"format": "json"}])
def test_nothing_that_a_peer_sends_reaches_the_terminal_raw(
    make_connection: Connections, options: dict[str, Any]
) -> None:
    said = f"{NASTY}{'x' * 20_000}".encode()
    body = b"SFATAL\0VFATAL\0C57P99\0M" + said + b"\0\0"
    with Asker(b"E" + struct.pack("!I", 4 + len(body)) + body) as peer:
        alias = make_connection(
            HOST="127.0.0.1", PORT=peer.port, options={"sslmode": "prefer"}
        ).alias
        report, complaints, status = run(alias, **options)
    assert status in {1, 3}
    shown = report + complaints
    assert [each for each in set(shown) - {"\n"} if not each.isprintable()] == []
    assert len(shown) < 20_000
    assert "xxx" in shown


def test_a_name_of_the_database_is_shown_escaped(
    make_connection: Connections, server: Server
) -> None:
    name = f"odd {NASTY}"
    server.execute(f'CREATE DATABASE "{name}" OWNER {server.user}')
    try:
        report, complaints, _ = run(make_connection(database=name).alias, verbosity=2)
    finally:
        server.terminate_all(name)
        server.drop_database(name)
    raw = [line for line in (report + complaints).splitlines() if not line.isprintable()]
    assert raw == []
    assert r"\x1b[2J" in words(report)
