"""What operators see of a loss: one line of the log, one signal, one count, whatever was tried."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import Error, IntegrityError, OperationalError, connections
from django.dispatch import Signal

from django_resilient_pg import signals
from django_resilient_pg.policy.messages import FIELDS
from django_resilient_pg.transaction import retry_atomic
from tests.engines import Connections, at_once, until
from tests.faults.proxy import Proxy
from tests.server.scenarios import TABLE, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]
LOGGER = "django_resilient_pg"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[..., list[Any]]:
    """The lines of the log from one level on, each checked for its fields."""
    caplog.set_level(logging.DEBUG, LOGGER)

    def read(level: int = logging.INFO) -> list[Any]:
        found = [one for one in caplog.records if one.name == LOGGER and one.levelno >= level]
        for one in found:
            assert set(FIELDS) <= set(vars(one)), one.getMessage()
            assert not re.search(r"\b0\.0 s\b", one.getMessage())
        return found

    return read


@contextlib.contextmanager
def heard(signal: Signal) -> Iterator[list[Any]]:
    records: list[Any] = []

    def receive(record: Any, **_: Any) -> None:
        records.append(record)

    signal.connect(receive)
    try:
        yield records
    finally:
        signal.disconnect(receive)


def stats(stage: Stage) -> Any:
    connection: Any = stage.connection
    return connection.resilience.stats


def outcomes(stage: Stage) -> tuple[int, int, int]:
    now = stats(stage)
    return sum(now.lost.values()), now.healed, now.surfaced


# -- levels ------------------------------------------------------------------------------------


def test_each_kept_connection_that_is_killed_is_one_line(
    stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    stages = [stage_of() for _ in range(8)]
    for stage in stages:
        stage.run("SELECT 1")
        stage.kill()
    for stage in stages:
        stage.run("SELECT 1")
    assert [one.levelno for one in lines()] == [logging.INFO] * 8
    assert [one.alias for one in lines()] == [stage.connection.alias for stage in stages]


def test_a_line_says_what_happened_and_has_the_rest_as_fields(
    stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    stage = stage_of()
    stage.run("SELECT 1")
    pid, alias = stage.pid(), stage.connection.alias
    stage.kill()
    stage.run("SELECT 1")
    (line,) = lines()
    assert re.fullmatch(
        rf'Connection "{alias}" lost after [\d.]+ m?s idle: terminated by administrator'
        rf' \[57P01\]\. Reconnected "{alias}" in \d+(\.\d)? m?s\.',
        line.getMessage(),
    )
    told = {name: getattr(line, name) for name in FIELDS}
    assert 0 < told.pop("idle") < 60
    assert 0 < told.pop("took") < 60
    assert told == {
        "alias": alias,
        "reason": "administrator",
        "sqlstate": "57P01",
        "backend_pid": pid,
        "host": stage.connection.settings_dict["HOST"],
        "port": int(stage.connection.settings_dict["PORT"]),
        "retried_as": None,
    }
    (last,) = stats(stage).last_losses
    assert {name: getattr(last, name) for name in told} == {**told, "reason": last.reason}
    assert (last.healed, last.reason.value, last.took) == (True, told["reason"], line.took)


def test_a_retried_statement_is_one_line(stage_of: Stages, lines: Callable[..., list[Any]]) -> None:
    stage = stage_of()
    with (
        heard(signals.statement_retried) as retried,
        heard(signals.connection_lost) as lost,
        stage.killed_midway(),
    ):
        stage.run("SELECT pg_sleep(1)")
    (line,), alias = lines(), stage.connection.alias
    assert (line.levelno, line.retried_as) == (logging.INFO, "statement")
    assert re.search(rf'Retried a read on "{alias}"; it succeeded after [\d.]+ s\.$', line.message)
    assert [one.retried_as for one in lost] == ["statement"]
    assert len(retried) == 1
    assert dict(stats(stage).retried) == {"statement": 1}
    assert outcomes(stage) == (1, 1, 0)


def test_a_loss_that_surfaces_is_one_warning(
    stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    stage = stage_of()
    with heard(signals.connection_lost) as lost, pytest.raises(Error), stage.killed_midway():
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'own' FROM pg_sleep(1)")
    (line,) = lines()
    assert line.levelno == logging.WARNING
    assert line.getMessage().endswith(
        "Not retried: the write may already have been applied; check before you retry it."
    )
    assert [one.healed for one in lost] == [False]
    assert outcomes(stage) == (1, 0, 1)
    assert stats(stage).refused == 1, "the former name"


@pytest.mark.parametrize("swallows", [False, True])
def test_a_lost_transaction_is_one_warning(
    swallows: bool, stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    stage = stage_of()
    with pytest.raises(Error), stage.atomic():
        stage.insert("own")
        stage.kill()
        with contextlib.suppress(Error) if swallows else contextlib.nullcontext():
            stage.run("SELECT 1")
        stage.run("SELECT 1")
    assert [one.levelno for one in lines()] == [logging.WARNING]
    assert outcomes(stage) == (1, 0, 1)


def test_a_session_that_cannot_be_restored_is_one_warning(
    stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    stage = stage_of()
    stage.run("LISTEN news")
    stage.kill()
    for _ in range(2):
        with pytest.raises(Error):
            stage.run("SELECT 1")
    (line,) = lines()
    assert line.levelno == logging.WARNING
    assert "lost with session state that cannot be restored (LISTEN" in line.getMessage()


@pytest.mark.psycopg3
def test_a_pool_whose_connections_are_killed_says_it_once(
    make_connection: Connections, server: Any, lines: Callable[..., list[Any]]
) -> None:
    connection = make_connection(options={"pool": {"min_size": 4, "max_size": 4}})
    stage = Stage(server, connection, "app")
    stage.run("SELECT 1")
    pool: Any = connection.pool  # type: ignore[attr-defined]
    until(lambda: pool.get_stats()["pool_available"] == 3, "the pool is not full")
    connection.close()
    server.terminate_all()
    stage.run("SELECT 1")
    assert [one.levelno for one in lines()] == [logging.INFO]


# -- units -------------------------------------------------------------------------------------


def test_a_retried_transaction_is_one_line_one_signal_and_one_count(
    stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    stage = stage_of()
    runs: list[int] = []

    def function() -> None:
        runs.append(1)
        stage.insert("own")
        if len(runs) == 1:
            stage.kill()
        stage.insert("own too")

    with heard(signals.transaction_retried) as retried, heard(signals.connection_lost) as lost:
        retry_atomic.run(function, using=stage.connection.alias)
    (line,), alias = lines(), stage.connection.alias
    assert (line.levelno, line.retried_as) == (logging.INFO, "transaction")
    assert line.getMessage().endswith(f'Retrying a transaction on "{alias}" (retry 1 of 2).')
    assert [(one.alias, one.attempt) for one in retried] == [(alias, 1)]
    assert [(one.healed, one.retried_as) for one in lost] == [(True, "transaction")]
    assert dict(stats(stage).retried) == {"transaction": 1}
    assert outcomes(stage) == (1, 1, 0)


def test_a_transaction_retried_without_a_loss_is_one_line(
    stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    stage = stage_of()
    runs: list[int] = []

    def function() -> None:
        runs.append(1)
        if len(runs) == 1:
            stage.run("DO $$ BEGIN RAISE 'conflict' USING ERRCODE = '40001'; END $$")

    with heard(signals.transaction_retried) as retried:
        retry_atomic.run(function, using=stage.connection.alias)
    (line,) = lines()
    assert (line.levelno, line.sqlstate) == (logging.INFO, "40001")
    assert [one.sqlstate for one in retried] == ["40001"]
    assert dict(stats(stage).retried) == {"transaction": 1}
    assert outcomes(stage) == (0, 0, 0)


def test_a_transaction_that_is_lost_each_time_surfaces_once(
    stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    stage = stage_of()

    def function() -> None:
        stage.insert("own")
        stage.kill()
        stage.insert("own too")

    with pytest.raises(Error):
        retry_atomic.run(function, using=stage.connection.alias, retries=1)
    assert [one.levelno for one in lines()] == [logging.INFO, logging.WARNING]
    assert dict(stats(stage).retried) == {"transaction": 1}
    assert outcomes(stage) == (2, 1, 1)


def _found_unusable(stage: Stage, *held: str) -> None:
    """A loss that a health check meets, of a session that holds this."""
    for sql in held or ["SELECT 1"]:
        stage.run(sql)
    stage.kill()
    connection: Any = stage.connection
    assert not connection.is_usable()
    assert not connection.is_usable()


@pytest.mark.parametrize("held", ["BEGIN", "LISTEN held"])
def test_a_loss_that_a_health_check_meets_and_a_statement_raises_is_announced_once(
    held: str, stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    """Nobody knows its outcome before the statement: a session that holds nothing is replaced."""
    stage = stage_of()
    with heard(signals.connection_lost) as lost:
        _found_unusable(stage, held)
        for _ in range(2):
            with pytest.raises(Error):
                stage.insert("own")
    assert [one.healed for one in lost] == [False]
    assert [one.levelno for one in lines()] == [logging.WARNING]
    assert outcomes(stage) == (1, 0, 1)


@pytest.mark.parametrize("then", ["a statement", "atomic()", "close()", "Django's boundary"])
def test_a_loss_that_a_health_check_meets_and_nobody_else_is_announced_once(
    then: str, stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    stage = stage_of()
    connection: Any = stage.connection
    with heard(signals.connection_lost) as lost:
        _found_unusable(stage)
        if then == "a statement":
            stage.run("SELECT 1")
        elif then == "atomic()":
            with stage.atomic():
                stage.insert("own")
        elif then == "close()":
            connection.close()
        else:
            connection.close_if_unusable_or_obsolete()
        stage.run("SELECT 1")
    assert [one.healed for one in lost] == [True]
    assert [one.levelno for one in lines()] == [logging.INFO]
    assert outcomes(stage) == (1, 1, 0)


def test_a_loss_that_was_healed_for_a_statement_surfaces_with_a_cursor(
    stage_of: Stages, lines: Callable[..., list[Any]]
) -> None:
    """The only loss that is announced twice: both outcomes are known, one after the other."""
    stage = stage_of()
    with heard(signals.connection_lost) as lost, stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 10000)")
        cursor.fetchmany(100)
        stage.kill()
        stage.run("SELECT 1")
        with pytest.raises(Error):
            cursor.fetchmany(100)
    assert [one.healed for one in lost] == [True, False]
    assert [one.levelno for one in lines()] == [logging.INFO, logging.WARNING]
    assert outcomes(stage) == (1, 0, 1)


# -- counts ------------------------------------------------------------------------------------


def test_the_outcomes_of_lost_commits_are_counted(stage_of: Stages) -> None:
    stage = stage_of()
    with Proxy(stage.server.port) as way:
        for asks in (False, True):
            through = stage_of(PORT=way.port, commit_outcome=asks)
            with through.atomic():
                through.insert("first")  # a connection asks for more at its first COMMIT
            with contextlib.suppress(Error), through.atomic():
                through.insert("own")
                way.cut_at(2 if asks else 1, "answer")
            now = stats(through)
            assert now.commit_outcomes_asked == asks
            assert dict(now.commit_outcomes) == {"committed" if asks else "unknown": 1}
            assert outcomes(through) == ((1, 1, 0) if asks else (1, 0, 1))


def test_attempts_to_connect_and_their_durations_are_counted(stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("SELECT 1")
    assert stats(stage).connect_attempts == 1
    assert stats(stage).reconnects.count == 0
    stage.kill()
    stage.run("SELECT 1")
    now = stats(stage)
    assert (now.connect_attempts, now.replaced, now.reconnects.count) == (2, 1, 1)
    assert 0 < now.reconnects.p50 <= now.reconnects.p99 < 60


def test_liveness_checks_are_timed_but_peeks_are_not(stage_of: Stages) -> None:
    stage = stage_of(ping_after=0.05)
    for _ in range(100):
        stage.run("SELECT 1")
    assert stats(stage).liveness_checks.count == 0
    connection: Any = stage.connection
    connection._link.heard_at -= 1.0
    connection._link.seen_at -= 1.0
    stage.run("SELECT 1")
    found = stats(stage).liveness_checks
    assert found.count == 1
    assert 0 < found.p50 < 60


def test_losses_in_many_threads_are_counted_exactly(
    make_connection: Connections, server: Any
) -> None:
    """All at once: each thread loses connections of its own under one alias."""
    connection: Any = make_connection()
    stage = Stage(server, connection, "app")
    stage.run("SELECT 1")
    before, threads, rounds = stats(stage), 6, 4
    failures: list[BaseException] = []

    def work() -> None:
        try:
            own = Stage(server, connections[connection.alias], "app")
            for _ in range(rounds):
                own.run("SELECT 1")
                own.kill()
            own.run("SELECT 1")
        except BaseException as error:
            failures.append(error)
        finally:
            connections[connection.alias].close()

    at_once(threads, work)
    assert not failures
    now = stats(stage)
    assert sum(now.lost.values()) - sum(before.lost.values()) == threads * rounds
    assert now.healed - before.healed == threads * rounds
    assert now.replaced - before.replaced == threads * rounds
    assert now.reconnects.count - before.reconnects.count == threads * rounds


def test_an_ordinary_error_is_no_event(stage_of: Stages, lines: Callable[..., list[Any]]) -> None:
    stage = stage_of()
    stage.run(f"INSERT INTO {TABLE} (id) VALUES (1)")
    with pytest.raises(IntegrityError):
        stage.run(f"INSERT INTO {TABLE} (id) VALUES (1)")
    assert lines(logging.DEBUG) == []
    assert outcomes(stage) == (0, 0, 0)


# -- outages -----------------------------------------------------------------------------------


def test_an_outage_that_ends_in_time_is_no_warning(
    own_connections: Connections, own_server: Any, lines: Callable[..., list[Any]]
) -> None:
    stage = Stage(own_server, own_connections(), "app")
    stage.run("SELECT 1")
    own_server.stop("fast")
    back = threading.Timer(0.3, own_server.start)
    back.start()
    stage.run("SELECT 1")
    back.join()
    said = [one.getMessage() for one in lines()]
    assert not lines(logging.WARNING)
    assert sorted(text.partition('"')[0] for text in said) == [
        "Connection ",
        "Server of ",
        "Server of ",
    ]


def test_an_outage_that_does_not_end_is_a_warning(
    own_connections: Connections, own_server: Any, lines: Callable[..., list[Any]]
) -> None:
    stage = Stage(own_server, own_connections(retry_deadline=0.5), "app")
    stage.run("SELECT 1")
    own_server.stop("fast")
    with pytest.raises(OperationalError):
        stage.run("SELECT 1")
    (line,) = lines(logging.WARNING)
    assert f'Could not reconnect to "{stage.connection.alias}"' in line.getMessage()


def test_an_outage_without_a_loss_is_one_warning(
    own_connections: Connections, own_server: Any, lines: Callable[..., list[Any]]
) -> None:
    stage = Stage(own_server, own_connections(retry_deadline=0.3), "app")
    own_server.stop("fast")
    for _ in range(2):
        with pytest.raises(OperationalError):
            stage.run("SELECT 1")
    (line,) = lines(logging.WARNING)
    assert line.getMessage().startswith(f'Could not reconnect to "{stage.connection.alias}" within')


def test_a_pasted_password_is_in_no_line_and_no_record(
    make_connection: Connections, lines: Callable[..., list[Any]]
) -> None:
    secret = "much@too:secret"
    stage = Stage(
        make_connection.server,
        make_connection(
            HOST=f"postgres://app:{secret}@nowhere.invalid:5432/app", retry_deadline=0.3
        ),
        "app",
    )
    with heard(signals.connect_retried) as retried, pytest.raises(OperationalError) as caught:
        stage.run("SELECT 1")
    told = [one.getMessage() for one in lines(logging.DEBUG)] + [one.message for one in retried]
    told += getattr(caught.value, "__notes__", [])
    assert retried
    assert lines()
    assert not [text for text in told if "secret" in text]


def test_a_failing_handler_keeps_nothing_from_receivers_and_counts(
    stage_of: Stages, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("of the handler")

    stage, handler, logger = stage_of(), Failing(), logging.getLogger(LOGGER)
    stage.run("SELECT 1")
    stage.kill()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with heard(signals.connection_lost) as lost:
            stage.run("SELECT 1")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert [one.healed for one in lost] == [True]
    assert outcomes(stage) == (1, 1, 0)


@pytest.mark.psycopg3
def test_an_outage_that_a_pool_meets_is_one_warning(
    own_connections: Connections, own_server: Any, lines: Callable[..., list[Any]]
) -> None:
    """Its dead connections are put away, but no other one comes: that is not healed."""
    options = {"pool": {"min_size": 1, "max_size": 2}}
    stage = Stage(own_server, own_connections(options=options, retry_deadline=0.5), "app")
    stage.run("SELECT 1")
    stage.connection.close()
    own_server.stop("fast")
    with pytest.raises(OperationalError):
        stage.run("SELECT 1")
    (line,) = lines(logging.WARNING)
    assert f'Could not reconnect to "{stage.connection.alias}"' in line.getMessage()
    lost, healed, surfaced = outcomes(stage)
    assert (surfaced, lost) == (1, healed + 1)
