"""What ``checkdbconn`` reports, as text and as JSON, of real servers."""

from __future__ import annotations

import io
import json
import re
import socket
import time

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction

from django_resilient_pg.diagnosis.findings import Level
from django_resilient_pg.diagnosis.findings.base import PAGE
from django_resilient_pg.diagnosis.report import as_text
from django_resilient_pg.diagnosis.report.inspection import Inspection
from django_resilient_pg.diagnosis.survey.gather import survey
from testproject.postgres import Server
from tests.children import python
from tests.engines import RESILIENT, STOCK, Connections, until
from tests.report_schema import validate
from tests.server.diagnosis.command import UNREACHABLE, document, run, words

pytestmark = pytest.mark.once_per_driver


# -- the report ------------------------------------------------------------------------------------


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


# -- exit status -----------------------------------------------------------------------------------


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


# -- waiting ---------------------------------------------------------------------------------------


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
    done = python("-c", FRESH, json.dumps(entry))
    assert done.returncode == 0, done.stderr
    whole, stages, facts = json.loads(done.stdout)
    assert stages["authentication"] is None
    assert facts["connecting"] == f"{whole * 1000:.1f} ms for the driver's whole login"
    shown = r"(DNS [\d.]+ ms, )?TCP [\d.]+ ms, TLS [\d.]+ ms \(on connections of their own\)"
    assert re.fullmatch(shown, facts["connection stages"])


# -- JSON ------------------------------------------------------------------------------------------


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


# -- what it costs, what it gives away -------------------------------------------------------------


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


def test_what_the_engine_adds_is_not_said_to_be_from_the_settings(
    make_connection: Connections,
) -> None:
    (database,) = document(make_connection(options={"keepalives_idle": 33}).alias)["databases"]
    sources = dict(database["survey"]["target"]["sources"])
    assert sources["connect_timeout"] == "the defaults of the engine django_resilient_pg"
    assert sources["keepalives_idle"] == sources["host"] == "DATABASES"
    (database,) = document(make_connection(STOCK).alias)["databases"]
    assert set(dict(database["survey"]["target"]["sources"]).values()) == {"DATABASES"}
