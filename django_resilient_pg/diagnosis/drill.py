"""``--drill``: ends sessions of its own on the user's database, and shows what survives.

What ends a session is a second one with the same credentials, by ``pg_terminate_backend``, which
PostgreSQL allows every role for its own sessions (manual, "Server Signaling Functions").
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import connections, transaction
from django.db.utils import Error

from .attempts import Connector, Refused, attempt

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from .survey import Survey

#: Seconds for the login of the session that ends the others, and for each ending.
TIMEOUT: Final = 5.0
# The process id alone could be anybody's: of another host of the alias, or used again since.
_WHO: Final = (
    "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint"
    " FROM pg_stat_activity WHERE pid = pg_backend_pid()"
)
_END: Final = (
    "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE pid = %s"
    " AND (extract(epoch FROM backend_start) * 1000000)::bigint = %s"
)
_BUSY: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    " AND query LIKE %s AND (extract(epoch FROM backend_start) * 1000000)::bigint = %s"
)
# Seconds that the read takes which is lost in the middle, if it is not; between two looks for it.
_READING: Final = 3.0
_LOOK: Final = 0.02
_TABLE: Final = "django_resilient_pg_drill"


class Step(NamedTuple):
    """One loss, and what came of it.

    Attributes:
        name: what was done.
        row: of the promise's table: when the session was lost.
        survived: ``None``: could not be tried.
        seconds: it took; ``undisturbed``: the same without a loss.
        detail: the error, or why it could not be tried; "" if it survived.
    """

    name: str
    row: str
    survived: bool | None
    seconds: float | None = None
    undisturbed: float | None = None
    detail: str = ""

    @property
    def sentence(self) -> str:
        """What to tell."""
        what = f"{self.name}, its session ended {self.row}"
        if self.survived is None:
            return f"{what}: not tried. {self.detail}"
        took = f"{(self.seconds or 0) * 1000:.0f} ms"
        if not self.survived:
            return f"{what}: FAILED after {took}. {self.detail}"
        return f"{what}: survived, {took} ({(self.undisturbed or 0) * 1000:.0f} ms undisturbed)."


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What the drill showed.

    Attributes:
        steps: in the order they were done.
        refusal: why nothing was tried, "" if something was.
    """

    steps: tuple[Step, ...] = ()
    refusal: str = ""

    @property
    def survived(self) -> bool:
        """Whether something was tried, and nothing failed."""
        tried = [step.survived for step in self.steps if step.survived is not None]
        return bool(tried) and all(tried)

    @property
    def sentences(self) -> list[str]:
        """What to tell, one for each step."""
        return [self.refusal] if self.refusal else [step.sentence for step in self.steps]


class _Impossible(Exception):
    """A step could not be tried; says why."""


def drill(survey: Survey) -> DrillResult:
    """Lose four sessions of our own, and tell what became of what they were doing.

    The application's connection of the alias is left alone. Nothing stays behind in the database.

    Args:
        survey: of an alias that can be reached.
    """
    pooler = survey.pooler
    if pooler is not None and pooler.mode != "session":
        return DrillResult(
            refusal="Not tried: behind a pooler that shares sessions, ending one could hit somebody"
            " else's. Run it on an alias that leads past the pooler."
        )
    connect = Connector.of(connections[survey.alias])
    try:
        second, _ = attempt(connect, {}, TIMEOUT, len(survey.target.hosts))
    except Refused as error:
        return DrillResult(refusal=f"Not tried: no second session came about. {error}")
    with contextlib.closing(second), _own(survey.alias) as db:
        ending = _Ending(db, second.ask, connect.hide)
        return DrillResult(tuple(_try(db, ending, each) for each in _STEPS))


@contextlib.contextmanager
def _own(alias: str) -> Iterator[BaseDatabaseWrapper]:
    """A connection of our own under the alias, in this thread, for as long as this takes.

    Not of the alias' pool, if it has one: that is the application's.
    """
    kept = connections[alias]
    entry = dict(kept.settings_dict)
    entry["OPTIONS"] = {name: value for name, value in entry["OPTIONS"].items() if name != "pool"}
    connections[alias] = db = type(kept)(entry, alias)
    try:
        yield db
    finally:
        connections[alias] = kept
        with contextlib.suppress(Error):
            db.close()


@dataclass(slots=True)
class _Ending:
    """Ends the session of a connection."""

    db: BaseDatabaseWrapper
    ask: Callable[..., list[tuple[Any, ...]]]
    hide: Callable[[str], str]
    failed: list[str] = field(default_factory=list)

    def know(self) -> tuple[int, int]:
        """Return which session the connection has."""
        with self.db.cursor() as cursor:
            cursor.execute(_WHO)
            process, started = cursor.fetchone()
        return process, started

    def end(self, process: int, started: int) -> None:
        """End a session and wait until it is gone.

        Raises:
            _Impossible: it was not ended.
        """
        try:
            rows = self.ask(_END, [int(TIMEOUT * 1000), process, started])
        except Exception as error:  # the raw driver's, whichever it is
            raise _Impossible(self.line(error)) from None
        if not rows:
            raise _Impossible("The second session does not see the first: they are on two servers.")
        if not rows[0][0]:
            raise _Impossible(f"The session was still there after {TIMEOUT:g} s.")

    def midway(self, process: int, started: int) -> threading.Thread:
        """End it as soon as our read runs on it."""

        def run() -> None:
            try:
                self._wait_until_busy(process, started)
                self.end(process, started)
            except _Impossible as error:
                self.failed.append(str(error))

        thread = threading.Thread(target=run, name="checkdbconn drill", daemon=True)
        thread.start()
        return thread

    def _wait_until_busy(self, process: int, started: int) -> None:
        deadline = time.monotonic() + _READING
        while time.monotonic() < deadline:
            [(busy,)] = self.ask(_BUSY, [process, f"%{_NAP}%", started])
            if busy:
                return
            time.sleep(_LOOK)
        raise _Impossible("The read was never seen to run.")

    def line(self, error: Exception) -> str:
        """The first line of what was said."""
        first = self.hide(str(error)).strip().partition("\n")[0].strip()
        return f"{type(error).__name__}: {first.rstrip('.')}."


#: Loses the session; returns its process id, 0 where there is nothing to lose.
Loss = Callable[[], int]
_NAP: Final = "django_resilient_pg_nap"


def _read(db: BaseDatabaseWrapper, lose: Loss) -> None:
    lose()
    _value(db, "SELECT 1")


def _long_read(db: BaseDatabaseWrapper, lose: Loss) -> None:
    # The session that is to be lost waits for it, the one that takes over does not.
    lost = lose()
    nap = f"CASE pg_backend_pid() WHEN {lost} THEN pg_sleep({_READING}) END"
    _value(db, f"SELECT 1 FROM (SELECT {nap}) AS {_NAP}")


def _write(db: BaseDatabaseWrapper, lose: Loss) -> None:
    """A temporary table ends with its transaction: it leaves nothing, and ties no session."""
    lose()
    with transaction.atomic(using=db.alias):
        _fill(db)


def _transaction(db: BaseDatabaseWrapper, lose: Loss) -> None:
    with transaction.atomic(using=db.alias):
        lose()
        _value(db, "SELECT 1")
        _fill(db)


def _fill(db: BaseDatabaseWrapper) -> None:
    with db.cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE {_TABLE} (number integer) ON COMMIT DROP")
        cursor.execute(f"INSERT INTO {_TABLE} VALUES (1)")
    _value(db, f"SELECT count(*) FROM {_TABLE}")


def _value(db: BaseDatabaseWrapper, sql: str) -> None:
    with db.cursor() as cursor:
        cursor.execute(sql)
        (value,) = cursor.fetchone()
    if value != 1:
        raise AssertionError(f"{sql} gave {value!r} instead of 1")


class _Case(NamedTuple):
    name: str
    row: str
    run: Callable[[BaseDatabaseWrapper, Loss], None]
    midway: bool = False


_STEPS: Final = (
    _Case("A read", "before anything was sent", _read),
    _Case("A read", "while it ran", _long_read, midway=True),
    _Case("A write into a temporary table", "before anything was sent", _write),
    _Case("A transaction", "at its first statement", _transaction),
)


def _try(db: BaseDatabaseWrapper, ending: _Ending, case: _Case) -> Step:
    """First undisturbed, so that what fails without a loss is not taken for one."""
    try:
        db.ensure_connection()
        undisturbed = _timed(lambda: case.run(db, lambda: 0))
        db.close()  # to begin with a session that nothing has been done in
        session = ending.know()
    except Error as error:
        return Step(case.name, case.row, None, detail=ending.line(error))
    threads: list[threading.Thread] = []

    def lose() -> int:
        if case.midway:
            threads.append(ending.midway(*session))
        else:
            ending.end(*session)
        return session[0]

    began = time.monotonic()
    try:
        case.run(db, lose)
    except _Impossible as error:
        return Step(case.name, case.row, None, detail=str(error))
    except Error as error:
        spent = time.monotonic() - began
        return Step(case.name, case.row, False, spent, undisturbed, ending.line(error))
    finally:
        spent = time.monotonic() - began
        for thread in threads:
            thread.join()
        with contextlib.suppress(Error):
            db.close()  # each case has a session of its own
    if ending.failed:
        return Step(case.name, case.row, None, detail=ending.failed.pop())
    return Step(case.name, case.row, True, spent, undisturbed)


def _timed(run: Callable[[], object]) -> float:
    began = time.monotonic()
    run()
    return time.monotonic() - began
