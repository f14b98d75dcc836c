"""A transaction that is lost is lost as a whole, whoever notices the loss and however it began.

The engine is not alone on its connection: a statement may begin a transaction (``BEGIN``), and code
that uses the driver directly may be the first to meet the loss, and swallow its error.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import pytest
from django.db import Error, InterfaceError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg.errors import SessionLost, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from tests.engines import DRIVER, PATIENCE, RESILIENT, STOCK, until
from tests.faults.proxy import Proxy
from tests.server.scenarios import TABLE, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]
PG3 = DRIVER == "psycopg"
INSERT = f"INSERT INTO {TABLE} (value) VALUES ('%s')"
OURS = "django_resilient_pg.middleware.RequestRetryMiddleware"
psycopg3, psycopg2 = pytest.mark.psycopg3, pytest.mark.psycopg2


# -- how the loss is noticed -----------------------------------------------------------------------


def driver_of(stage: Stage) -> Any:
    """The driver's connection object, as applications reach for it."""
    return stage.connection.connection


def raw(stage: Stage, sql: str) -> None:
    """Execute on a cursor of the driver's own."""
    with driver_of(stage).cursor() as cursor:
        cursor.execute(sql)


def raw_below(stage: Stage) -> None:
    """Execute on the driver's cursor inside of Django's."""
    with stage.connection.cursor() as cursor:
        cursor.cursor.execute("SELECT 1")


def wait_for_notifications(stage: Stage) -> None:
    for _ in driver_of(stage).notifies(timeout=PATIENCE):
        raise AssertionError("nobody notifies")


def poll(stage: Stage) -> None:
    until(lambda: bool(driver_of(stage).poll()), "the driver does not notice the loss")


def is_usable(stage: Stage) -> None:
    assert not stage.connection.is_usable()


FAILS: dict[str, Callable[[Stage], object]] = {
    "raw cursor": lambda stage: raw(stage, "SELECT 1"),
    "raw cursor below": raw_below,
    "raw notifies": wait_for_notifications,
    "raw poll": poll,
    "raw commit": lambda stage: driver_of(stage).commit(),
    "raw rollback": lambda stage: driver_of(stage).rollback(),
}
ANSWERS: dict[str, Callable[[Stage], object]] = {
    "raw close": lambda stage: driver_of(stage).close(),
    "is_usable": is_usable,
}
# psycopg2 sends neither COMMIT nor ROLLBACK in its autocommit, whatever a text has begun.
MARKS = {
    "raw notifies": [psycopg3],
    "raw poll": [psycopg2],
    "raw commit": [psycopg3],
    "raw rollback": [psycopg3],
}
NOTICED = pytest.mark.parametrize(
    "noticed", [pytest.param(name, marks=MARKS.get(name, [])) for name in [*FAILS, *ANSWERS]]
)


#: One way to each of the states in which the driver's connection is found.
SOME = pytest.mark.parametrize("noticed", ["raw cursor", "raw close", "is_usable"])


def lose(stage: Stage, noticed: str = "raw cursor") -> None:
    """Terminate the session and have the driver notice; the application swallows what it raises."""
    stage.kill()
    if noticed in FAILS:
        with pytest.raises(driver_of(stage).Error):
            FAILS[noticed](stage)
    else:
        ANSWERS[noticed](stage)


def assert_works(stage: Stage, *rows: str) -> None:
    """The alias is of use again, in autocommit, and this is all that the database holds."""
    stage.insert("after")
    assert stage.rows() == [*rows, "after"]


# -- D1: half of a transaction must not stay -------------------------------------------------------


def begin(stage: Stage, *texts: str) -> None:
    """The first half of a transaction that a text begins, in autocommit."""
    for text in texts or ["BEGIN"]:
        stage.run(text)
    stage.insert("first")


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
    with pytest.raises(SessionLost):
        stage.insert("second")
    assert stage.rows() == []


def test_with_an_isolation_level_of_the_alias(stage_of: Stages) -> None:
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    stage = stage_of(options={"isolation_level": IsolationLevel.SERIALIZABLE})
    begin(stage)
    lose(stage)
    with pytest.raises(SessionLost):
        stage.insert("second")
    assert stage.rows() == []


def test_begun_on_a_raw_cursor(stage_of: Stages) -> None:
    """The statement that follows on Django's cursor shows that there is one."""
    stage = stage_of()
    raw(stage, "BEGIN")
    stage.insert("first")
    lose(stage)
    with pytest.raises(SessionLost):
        stage.insert("second")
    assert stage.rows() == []


def test_begun_on_djangos_cursor_and_written_on_a_raw_one(stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    raw(stage, INSERT % "first")
    lose(stage)
    with pytest.raises(SessionLost):
        stage.insert("second")
    assert stage.rows() == []


def test_begun_after_a_health_check(stage_of: Stages) -> None:
    """What it saw then is not what is true now."""
    stage = stage_of()
    assert stage.connection.is_usable()
    begin(stage)
    lose(stage)
    with pytest.raises(SessionLost):
        stage.insert("second")
    assert stage.rows() == []


def test_a_failed_transaction_is_one(stage_of: Stages) -> None:
    stage = stage_of()
    begin(stage)
    with pytest.raises(Error):
        stage.run("SELECT 1/0")
    lose(stage)
    with pytest.raises(SessionLost):
        stage.insert("second")
    assert stage.rows() == []


@psycopg2
def test_a_commit_that_the_driver_does_not_send(stage_of: Stages) -> None:
    """The transaction that the text began is still open after it."""
    stage = stage_of()
    begin(stage)
    stage.connection.commit()
    lose(stage)
    with pytest.raises(SessionLost):
        stage.insert("second")
    assert stage.rows() == []


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
    sql = f"COPY {TABLE} (value) FROM STDIN"
    with stage.connection.cursor() as cursor:
        if PG3:
            with cursor.copy(sql) as copy:
                copy.write("second\n")
        else:
            cursor.copy_expert(sql, io.StringIO("second\n"))


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


# -- D3: what is over must not be refused ----------------------------------------------------------


def copy_nothing(stage: Stage) -> None:
    sql = f"COPY {TABLE} (value) TO STDOUT"
    with stage.connection.cursor() as cursor:
        if PG3:
            with cursor.copy(sql) as copy:
                list(copy)
        else:
            cursor.copy_expert(sql, io.StringIO())


ENDS: dict[str, Callable[[Stage], object]] = {
    "commit": lambda stage: stage.connection.commit(),
    "rollback": lambda stage: stage.connection.rollback(),
}
TEXTS = ["COMMIT", "end;", "ROLLBACK", "ABORT", "SELECT 1; COMMIT"]
ENDED = pytest.mark.parametrize(
    "ended",
    [*TEXTS, *(pytest.param(name, marks=[psycopg3]) for name in ENDS)],
)


def end(stage: Stage, ended: str) -> None:
    if ended in TEXTS:
        stage.run(ended)
    else:
        ENDS[ended](stage)


@ENDED
def test_a_transaction_that_is_over_is_not_lost(ended: str, stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    assert stage.connection.is_usable()
    end(stage, ended)
    lose(stage)
    assert stage.run("SELECT 5") == [(5,)]
    assert_works(stage)


def test_an_end_that_only_the_driver_has_seen_is_not_guessed(stage_of: Stages) -> None:
    """Nothing was sent by Django after it that would have shown it, and the session is gone."""
    stage = stage_of()
    stage.run("BEGIN")
    assert stage.connection.is_usable()
    raw(stage, "COMMIT")
    lose(stage)
    with pytest.raises(SessionLost):
        stage.run("SELECT 5")
    stage.connection.close()
    assert_works(stage)


def test_an_end_that_the_next_statement_has_shown_is_known(stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    raw(stage, "COMMIT")
    stage.run("SELECT 1")
    lose(stage)
    assert_works(stage)


@pytest.mark.parametrize("noticed", ["raw cursor", "raw close"])
def test_a_transaction_with_a_copy_that_is_over_is_not_lost(noticed: str, stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    copy_nothing(stage)
    stage.run("COMMIT")
    lose(stage, noticed)
    assert stage.run("SELECT 5") == [(5,)]
    assert_works(stage)


# In autocommit again the driver has nothing to commit, and so does not notice the loss by that.
IDLE = pytest.mark.parametrize(
    "noticed",
    [
        "raw cursor",
        pytest.param("raw notifies", marks=[psycopg3]),
        pytest.param("raw poll", marks=[psycopg2]),
        "raw close",
        "is_usable",
    ],
)


@IDLE
def test_a_transaction_that_is_over_is_kept(noticed: str, stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    assert stage.connection.is_usable()
    stage.insert("first")
    stage.run("COMMIT")
    lose(stage, noticed)
    assert_works(stage, "first")


@IDLE
def test_a_loss_before_the_transaction_is_healed(noticed: str, stage_of: Stages) -> None:
    """The swallowed failure is outside of it: all of it runs on the new connection."""
    stage = stage_of()
    lose(stage, noticed)
    begin(stage)
    stage.insert("second")
    stage.run("COMMIT")
    assert stage.rows() == ["first", "second"]


def test_a_chained_transaction_is_not_over(stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    assert stage.connection.is_usable()
    stage.run("COMMIT AND CHAIN")
    lose(stage)
    with pytest.raises(SessionLost):
        stage.run("SELECT 5")


# -- the same with autocommit off ------------------------------------------------------------------

# "settings": AUTOCOMMIT is False in DATABASES.
OFF = pytest.mark.parametrize("off", ["set_autocommit", "settings"])
#: "raw": nothing but the driver's own cursor has been used in the transaction, so it is not seen.
FIRST = pytest.mark.parametrize("first", ["django", "raw"])


@pytest.fixture
def manual(stage_of: Stages) -> Callable[[str], Stage]:
    """A stage on which transactions begin by themselves, none of them begun."""

    def make(off: str) -> Stage:
        if off == "set_autocommit":
            stage = stage_of()
            stage.connection.set_autocommit(False)
        else:
            stage = stage_of(AUTOCOMMIT=False)
            stage.connection.rollback()
        return stage

    return make


def write(stage: Stage, first: str) -> None:
    if first == "raw":
        raw(stage, INSERT % "first")
    else:
        stage.insert("first")


@OFF
@FIRST
@SOME
def test_the_second_half_without_autocommit(
    noticed: str, first: str, off: str, manual: Callable[[str], Stage]
) -> None:
    stage = manual(off)
    write(stage, first)
    lose(stage, noticed)
    with pytest.raises(TransactionLost):
        stage.insert("second")
    with pytest.raises(TransactionLost):
        stage.connection.commit()
    assert stage.rows() == []
    stage.connection.rollback()
    stage.insert("after")
    stage.connection.commit()
    assert stage.rows() == ["after"]


@OFF
@FIRST
@SOME
def test_commit_without_autocommit(
    noticed: str, first: str, off: str, manual: Callable[[str], Stage]
) -> None:
    stage = manual(off)
    write(stage, first)
    lose(stage, noticed)
    for _ in range(2):
        with pytest.raises(TransactionLost):
            stage.connection.commit()
    assert stage.rows() == []


@OFF
@FIRST
@SOME
def test_rollback_without_autocommit(
    noticed: str, first: str, off: str, manual: Callable[[str], Stage]
) -> None:
    stage = manual(off)
    write(stage, first)
    lose(stage, noticed)
    assert not stage.connection.is_usable()
    stage.connection.rollback()
    stage.insert("after")
    stage.connection.commit()
    assert stage.rows() == ["after"]


@OFF
@FIRST
def test_a_text_that_commits_without_autocommit(
    first: str, off: str, manual: Callable[[str], Stage]
) -> None:
    stage = manual(off)
    write(stage, first)
    lose(stage)
    with pytest.raises(TransactionLost):
        stage.run("COMMIT")
    with pytest.raises(TransactionLost):
        stage.insert("second")
    assert stage.rows() == []


@OFF
@FIRST
def test_a_savepoint_without_autocommit(
    first: str, off: str, manual: Callable[[str], Stage]
) -> None:
    """It would begin another transaction, for the second half alone."""
    stage = manual(off)
    write(stage, first)
    lose(stage)
    with pytest.raises(TransactionLost):
        stage.connection.savepoint()
    with pytest.raises(TransactionLost):
        stage.connection.commit()
    assert stage.rows() == []


@FIRST
def test_djangos_boundary_where_autocommit_was_turned_off(
    first: str, manual: Callable[[str], Stage]
) -> None:
    """It closes such a connection anyway."""
    stage = manual("set_autocommit")
    write(stage, first)
    lose(stage)
    stage.connection.close_if_unusable_or_obsolete()
    assert_works(stage)


@FIRST
def test_djangos_boundary_does_not_end_a_transaction(
    first: str, manual: Callable[[str], Stage]
) -> None:
    """On a connection that lives it goes on after it, and may be committed then."""
    stage = manual("settings")
    write(stage, first)
    lose(stage)
    stage.connection.close_if_unusable_or_obsolete()
    with pytest.raises(TransactionLost):
        stage.insert("second")
    assert stage.rows() == []


@FIRST
@SOME
def test_the_second_half_in_atomic(noticed: str, first: str, stage_of: Stages) -> None:
    stage = stage_of()
    hooks: list[str] = []
    with pytest.raises(TransactionLost), stage.atomic():
        transaction.on_commit(lambda: hooks.append("hook"), using=stage.connection.alias)
        write(stage, first)
        lose(stage, noticed)
        stage.insert("second")
    assert (stage.rows(), hooks) == ([], [])
    assert_works(stage)


@FIRST
@NOTICED
def test_the_end_of_atomic(noticed: str, first: str, stage_of: Stages) -> None:
    stage = stage_of()
    hooks: list[str] = []
    with pytest.raises(TransactionLost), stage.atomic():
        transaction.on_commit(lambda: hooks.append("hook"), using=stage.connection.alias)
        write(stage, first)
        lose(stage, noticed)
    assert (stage.rows(), hooks) == ([], [])
    assert_works(stage)


@FIRST
def test_an_inner_block_in_the_second_half(first: str, stage_of: Stages) -> None:
    stage = stage_of()
    with pytest.raises(TransactionLost), stage.atomic():
        write(stage, first)
        lose(stage)
        with stage.atomic():
            stage.insert("second")
    assert stage.rows() == []
    assert_works(stage)


@FIRST
def test_retry_atomic_does_not_retry_what_it_has_not_seen(first: str, stage_of: Stages) -> None:
    """The driver's own commit() may have come before the loss that the driver's own cursor met."""
    stage = stage_of()
    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        write(stage, first)
        if len(attempts) == 1:
            lose(stage)
        stage.insert("second")

    with pytest.raises(TransactionLost, match="the driver's own methods"):
        retry_atomic.run(work, using=stage.connection.alias)
    assert (len(attempts), stage.rows()) == (1, [])


# -- D4: a savepoint alone leaves a transaction untouched ------------------------------------------


KEY = 7
WAITS = f"INSERT INTO {TABLE} (value) SELECT 'waits' FROM pg_advisory_xact_lock({KEY})"


@contextmanager
def killed_waiting(stage: Stage, holder: Stage) -> Iterator[None]:
    """Terminate the first session that runs ``WAITS``, whichever it is; the next one may go on."""
    holder.run(f"SELECT pg_advisory_lock({KEY})")
    waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    killed, over = Event(), Event()

    def kill() -> bool:
        for (pid,) in stage.server.execute(waiting):
            stage.server.terminate(pid)
            holder.kill()
            killed.set()
        return killed.is_set() or over.is_set()

    thread = Thread(target=until, args=(kill, "nobody waits"), name="killed_waiting")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert killed.is_set(), "nobody waited"


def no_savepoint(stage: Stage) -> None:
    pass


def one_savepoint(stage: Stage) -> None:
    stage.connection.savepoint()


def two_savepoints(stage: Stage) -> None:
    stage.connection.savepoint()
    stage.connection.savepoint()


def rolled_back(stage: Stage) -> None:
    connection: Any = stage.connection
    connection.savepoint()
    connection.savepoint_rollback(connection.savepoint())


def released(stage: Stage) -> None:
    connection: Any = stage.connection
    connection.savepoint_commit(connection.savepoint())


@pytest.mark.parametrize("checked", [True, False], ids=["is_usable", "at once"])
@pytest.mark.parametrize(
    "before", [no_savepoint, one_savepoint, two_savepoints, rolled_back, released]
)
def test_a_first_statement_that_is_lost_as_well(
    before: Callable[[Stage], None], checked: bool, stage_of: Stages
) -> None:
    stage = stage_of()
    with killed_waiting(stage, stage_of(STOCK)), stage.atomic():
        _lose_twice(stage, before, checked=checked)
    assert stage.rows() == ["waits", "next"]


@OFF
def test_a_first_statement_that_is_lost_as_well_without_autocommit(
    off: str, manual: Callable[[str], Stage], stage_of: Stages
) -> None:
    stage = manual(off)
    with killed_waiting(stage, stage_of(STOCK)):
        _lose_twice(stage, one_savepoint, checked=True)
        stage.connection.commit()
    assert stage.rows() == ["waits", "next"]


def _lose_twice(stage: Stage, before: Callable[[Stage], None], *, checked: bool) -> None:
    before(stage)
    stage.kill()
    if checked:
        assert not stage.connection.is_usable()
    stage.run(WAITS)
    stage.insert("next")


@pytest.mark.parametrize("checked", [True, False], ids=["is_usable", "at once"])
def test_a_nested_block_whose_first_statement_is_lost_as_well(
    checked: bool, stage_of: Stages
) -> None:
    stage = stage_of()
    with killed_waiting(stage, stage_of(STOCK)), stage.atomic():
        with pytest.raises(KeyError), stage.atomic():
            _lose_twice(stage, no_savepoint, checked=checked)
            raise KeyError
        stage.insert("kept")
    assert stage.rows() == ["kept"]


# -- D5: an engine over this one is asked once -----------------------------------------------------

HOOKS = (
    "_commit",
    "_rollback",
    "_savepoint",
    "_savepoint_commit",
    "_savepoint_rollback",
    "commit",
    "rollback",
    "on_commit",
)


def counting(stage: Stage, calls: Counter[str]) -> Stage:
    """The same alias on an engine that overrides what Django's transactions call."""
    inner: Any = type(stage.connection)

    def counted(name: str) -> Callable[..., Any]:
        def hook(self: BaseDatabaseWrapper, *args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return getattr(super(outer, self), name)(*args, **kwargs)

        return hook

    outer: Any = type("Outer", (inner,), {name: counted(name) for name in HOOKS})
    stage.connection.close()
    connections[stage.connection.alias] = outer(
        stage.connection.settings_dict, stage.connection.alias
    )
    return Stage(stage.server, connections[stage.connection.alias], stage.database)


def writes(stage: Stage) -> None:
    stage.insert("x")


def nests(stage: Stage) -> None:
    with stage.atomic():
        stage.insert("x")


def rolls_back_inside(stage: Stage) -> None:
    with pytest.raises(KeyError), stage.atomic():
        stage.insert("dropped")
        raise KeyError
    stage.insert("x")


def defers(stage: Stage) -> None:
    stage.insert("x")
    transaction.on_commit(lambda: None, using=stage.connection.alias)


def by_atomic(stage: Stage, work: Callable[[Stage], None]) -> None:
    with stage.atomic():
        work(stage)


def by_retry_atomic(stage: Stage, work: Callable[[Stage], None]) -> None:
    retry_atomic.run(lambda: work(stage), using=stage.connection.alias)


def by_request(stage: Stage, work: Callable[[Stage], None]) -> None:
    requested.append(lambda: by_atomic(stage, work))
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[OURS], ALLOWED_HOSTS=["*"]):
        assert Client().post("/").status_code == 200


def by_commit(stage: Stage, work: Callable[[Stage], None]) -> None:
    stage.connection.set_autocommit(False)
    work(stage)
    stage.connection.commit()
    stage.connection.set_autocommit(True)


requested: list[Callable[[], None]] = []


def view(request: HttpRequest) -> HttpResponse:
    requested.pop()()
    return HttpResponse()


urlpatterns = [path("", view)]


@pytest.mark.parametrize("work", [writes, nests, rolls_back_inside, defers])
@pytest.mark.parametrize("unit", [by_atomic, by_retry_atomic, by_request])
def test_an_engine_above_is_called_as_often_as_above_the_stock_engine(
    unit: Callable[..., None], work: Callable[[Stage], None], stage_of: Stages
) -> None:
    told: dict[str, Counter[str]] = {STOCK: Counter(), RESILIENT: Counter()}
    for engine, calls in told.items():
        stage = counting(stage_of(engine), calls)
        (by_atomic if engine == STOCK else unit)(stage, work)
        stage.connection.close()
    assert told[STOCK]["_commit"] == 1
    assert told[RESILIENT] == told[STOCK]


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_an_engine_above_is_called_once_by_commit(engine: str, stage_of: Stages) -> None:
    calls: Counter[str] = Counter()
    stage = counting(stage_of(engine), calls)
    by_commit(stage, writes)
    stage.connection.close()
    assert calls == {"_commit": 1, "commit": 1}


def test_an_engine_above_is_called_once_for_each_attempt(stage_of: Stages) -> None:
    """The first attempt is lost before its COMMIT, and so has none."""
    calls: Counter[str] = Counter()
    stage = counting(stage_of(), calls)
    attempts: list[int] = []

    def work(stage: Stage) -> None:
        attempts.append(1)
        stage.insert("x")
        if len(attempts) == 1:
            stage.kill()
        stage.run("SELECT 1")

    by_retry_atomic(stage, work)
    stage.connection.close()
    assert (len(attempts), stage.rows()) == (2, ["x"])
    assert calls["_commit"] == 1
