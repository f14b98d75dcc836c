"""A transaction that a text begins, and that is lost, is lost as a whole, whoever notices it.

The engine is not alone on its connection: a statement may begin a transaction (``BEGIN``), and code
that uses the driver directly may be the first to meet the loss, and swallow its error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from django.db import Error, InterfaceError, OperationalError

from django_resilient_pg.errors import SessionLost, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from tests.engines import STOCK, copy_in
from tests.faults.proxy import Proxy
from tests.server.scenarios import TABLE, Stage
from tests.server.state.losing import (
    INSERT,
    NOTICED,
    SOME,
    Stages,
    assert_refused,
    assert_works,
    begin,
    driver_of,
    lose,
    psycopg2,
    psycopg3,
    raw,
)

pytestmark = pytest.mark.once_per_driver


# -- D1: half of a transaction must not stay -------------------------------------------------------


@NOTICED
def test_the_second_half_of_a_lost_transaction_is_refused(noticed: str, stage_of: Stages) -> None:
    stage = stage_of()
    begin(stage)
    lose(stage, noticed)
    with pytest.raises(SessionLost):
        stage.insert("second")
    with pytest.raises(SessionLost):
        stage.run("COMMIT")
    assert stage.rows() == []


@NOTICED
def test_the_stock_engine_refuses_it_too(noticed: str, stage_of: Stages) -> None:
    stage = stage_of(STOCK)
    begin(stage)
    lose(stage, noticed)
    for sql in (INSERT % "second", "COMMIT"):
        with pytest.raises((OperationalError, InterfaceError)):
            stage.run(sql)
    assert stage.rows() == []


@pytest.mark.parametrize(
    "texts",
    [
        ["START TRANSACTION"],
        ["begin work;"],
        ["/* a comment */ BEGIN"],
        ["BEGIN ISOLATION LEVEL SERIALIZABLE"],
        ["START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE"],
        ["BEGIN", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"],
        ["BEGIN", "SET LOCAL transaction_isolation = 'serializable'"],
        ["SET default_transaction_isolation = 'serializable'", "BEGIN"],
        ["BEGIN", "SAVEPOINT one"],
        ["BEGIN", "COMMIT AND CHAIN"],
        ["BEGIN", "COMMIT", "BEGIN"],
        ["SELECT 1; BEGIN"],
    ],
    ids=", ".join,
)
def test_however_a_text_begins_it(texts: list[str], stage_of: Stages) -> None:
    stage = stage_of()
    begin(stage, *texts)
    lose(stage)
    assert_refused(stage)


def test_with_an_isolation_level_of_the_alias(stage_of: Stages) -> None:
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    stage = stage_of(options={"isolation_level": IsolationLevel.SERIALIZABLE})
    begin(stage)
    lose(stage)
    assert_refused(stage)


def begun_on_a_raw_cursor(stage: Stage) -> None:
    """The statement that follows on Django's cursor shows that there is one."""
    raw(stage, "BEGIN")
    stage.insert("first")


def written_on_a_raw_cursor(stage: Stage) -> None:
    stage.run("BEGIN")
    raw(stage, INSERT % "first")


def begun_after_a_health_check(stage: Stage) -> None:
    """What it saw then is not what is true now."""
    assert stage.connection.is_usable()
    begin(stage)


def failed(stage: Stage) -> None:
    begin(stage)
    with pytest.raises(Error):
        stage.run("SELECT 1/0")


@pytest.mark.parametrize(
    "begun", [begun_on_a_raw_cursor, written_on_a_raw_cursor, begun_after_a_health_check, failed]
)
def test_whoever_begins_it(begun: Callable[[Stage], None], stage_of: Stages) -> None:
    stage = stage_of()
    begun(stage)
    lose(stage)
    assert_refused(stage)


@psycopg2
def test_a_commit_that_the_driver_does_not_send(stage_of: Stages) -> None:
    """The transaction that the text began is still open after it."""
    stage = stage_of()
    begin(stage)
    stage.connection.commit()
    lose(stage)
    assert_refused(stage)


@psycopg3
def test_a_transaction_of_the_drivers_own(stage_of: Stages) -> None:
    stage = stage_of()
    with pytest.raises(Error), driver_of(stage).transaction():
        stage.insert("first")
        lose(stage)
        stage.insert("second")
    assert stage.rows() == []


def test_the_drivers_autocommit_turned_off(stage_of: Stages) -> None:
    stage = stage_of()
    driver_of(stage).autocommit = False
    stage.insert("first")
    lose(stage)
    with pytest.raises((SessionLost, TransactionLost)):
        stage.insert("second")
    with pytest.raises((SessionLost, TransactionLost)):
        stage.connection.commit()
    assert stage.rows() == []


def many(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {TABLE} (value) VALUES (%s)", [["second"]])


def chunked(stage: Stage) -> None:
    with stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchall()


def called(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        cursor.callproc("lying_insert", ["second"])


def copied(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        copy_in(cursor, f"COPY {TABLE} (value) FROM STDIN", "second\n")


def in_atomic(stage: Stage) -> None:
    with stage.atomic():
        stage.insert("second")


def in_retry_atomic(stage: Stage) -> None:
    retry_atomic.run(lambda: stage.insert("second"), using=stage.connection.alias)


@pytest.mark.parametrize(
    "then", [lambda stage: stage.run("SELECT 1"), many, chunked, called, copied]
)
def test_whatever_the_second_half_is(then: Callable[[Stage], None], stage_of: Stages) -> None:
    stage = stage_of()
    begin(stage)
    lose(stage)
    with pytest.raises(SessionLost):
        then(stage)
    assert stage.rows() == []


@pytest.mark.parametrize("then", [in_atomic, in_retry_atomic])
def test_a_block_in_the_second_half(then: Callable[[Stage], None], stage_of: Stages) -> None:
    """Its COMMIT would have been the transaction's own."""
    stage = stage_of()
    begin(stage)
    lose(stage)
    with pytest.raises((SessionLost, TransactionLost)):
        then(stage)
    assert stage.rows() == []


def test_a_cursor_that_was_open_before(stage_of: Stages) -> None:
    stage = stage_of()
    with stage.connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(INSERT % "first")
        lose(stage)
        with pytest.raises(SessionLost):
            cursor.execute(INSERT % "second")
    assert stage.rows() == []


# -- D2: a lost transaction must not report success ------------------------------------------------


@NOTICED
def test_commit_of_a_lost_transaction_raises(noticed: str, stage_of: Stages) -> None:
    stage = stage_of()
    begin(stage)
    lose(stage, noticed)
    for _ in range(2):
        with pytest.raises(TransactionLost):
            stage.connection.commit()
    assert stage.rows() == []
    stage.connection.rollback()
    assert_works(stage)


@pytest.mark.parametrize("sql", ["COMMIT", "END", "COMMIT AND CHAIN", "RELEASE SAVEPOINT one"])
def test_a_text_that_ends_a_lost_transaction_raises(sql: str, stage_of: Stages) -> None:
    stage = stage_of()
    begin(stage)
    stage.run("SAVEPOINT one")
    lose(stage)
    with pytest.raises(SessionLost):
        stage.run(sql)
    assert stage.rows() == []


@NOTICED
def test_is_usable_says_so_and_changes_nothing(noticed: str, stage_of: Stages) -> None:
    stage = stage_of()
    begin(stage)
    lose(stage, noticed)
    for _ in range(2):
        assert not stage.connection.is_usable()
    with pytest.raises(SessionLost):
        stage.insert("second")
    with pytest.raises(TransactionLost):
        stage.connection.commit()
    assert stage.rows() == []


@pytest.mark.parametrize("noticed", ["raw cursor", "raw close"])
def test_autocommit_that_is_turned_off_later_ends_nothing(noticed: str, stage_of: Stages) -> None:
    """psycopg refuses to turn it off within a transaction, psycopg2 does it."""
    stage = stage_of()
    begin(stage)
    with suppress(Error):
        stage.connection.set_autocommit(False)
    lose(stage, noticed)
    with pytest.raises((SessionLost, TransactionLost)):
        stage.insert("second")
    with pytest.raises(TransactionLost):
        stage.connection.commit()
    assert stage.rows() == []


@psycopg3
def test_what_came_after_a_failed_statement_is_not_taken_for_nothing(stage_of: Stages) -> None:
    """The driver's own cursor has ended the failed transaction, and begun another one.

    With psycopg2 what follows the ROLLBACK has taken effect at once.
    """
    stage = stage_of()
    with pytest.raises(TransactionLost), stage.atomic():
        with pytest.raises(Error):
            stage.run("SELECT 1/0")
        raw(stage, "ROLLBACK")
        raw(stage, INSERT % "first")
        stage.kill()
    assert stage.rows() == []


@psycopg2
@pytest.mark.parametrize("ended", ["ROLLBACK", "COMMIT"])
def test_a_statement_that_the_driver_sends_without_begin_is_not_retried(
    ended: str, stage_of: Stages, proxy: Proxy
) -> None:
    """psycopg2 believes that its BEGIN still holds, so the statement takes effect at once."""
    stage = stage_of(PORT=proxy.port)
    with pytest.raises(OperationalError), stage.atomic():
        raw(stage, ended)
        proxy.cut_at(1, "answer")
        stage.insert("first")
    assert stage.rows() == ["first"]


# -- what ends a lost transaction ------------------------------------------------------------------


@SOME
@pytest.mark.parametrize("end", ["rollback", "close", "close_if_unusable_or_obsolete"])
@pytest.mark.parametrize("raised", [False, True], ids=["at once", "after an error"])
def test_the_application_starts_clean(
    raised: bool, end: str, noticed: str, stage_of: Stages
) -> None:
    """By rollback() it has asked for what the server has done; the others are Django's boundary."""
    stage = stage_of()
    begin(stage)
    lose(stage, noticed)
    if raised:
        with pytest.raises(SessionLost):
            stage.insert("second")
    getattr(stage.connection, end)()
    assert_works(stage)
    assert stage.connection.get_autocommit()
