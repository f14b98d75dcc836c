"""What lies between a program and its rows: a pooler, or a primary that is replaced."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Final, Self

from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Mode, Server
from testproject.standby import QUICK, SYNCHRONOUS, Standby
from tests.faults.pgbouncer import PgBouncer

from .plays import MOST
from .stage import Stage

# Behind a pooler nobody knows which session a statement will run in. So whoever comes first dies,
# once for each number: a sequence keeps it whatever becomes of the transaction.
_BY_NUMBER: Final = """
CREATE SEQUENCE deaths;
GRANT ALL ON SEQUENCE deaths TO app;
CREATE OR REPLACE FUNCTION is_victim(victim int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
    IF victim <= (SELECT last_value FROM deaths) THEN RETURN false; END IF;
    PERFORM setval('deaths', victim);
    RETURN true;
END $$;
"""


class BehindPooler(Stage):
    """A stage that is reached through a pooler: sessions are those of the pooler."""

    def __init__(self, server: Server, other: Stage) -> None:
        super().__init__(server, other=other)
        server.execute(_BY_NUMBER, database=self.database)
        self._deaths = itertools.count(2)

    def victim(self, connection: BaseDatabaseWrapper) -> int:
        """A number of its own, greater than all before."""
        return next(self._deaths)

    def kill(self, pid: int) -> bool:
        """End all sessions: any of them may be the one."""
        return self.kill_all()


def pooler(server: Server) -> PgBouncer:
    """PgBouncer in transaction mode, without TLS to its server.

    Nobody waits for a session that others hold.
    """
    return PgBouncer(
        server,
        console=True,
        pool_mode="transaction",
        default_pool_size=MOST + 3,
        server_login_retry=0.1,
        server_tls_sslmode="disable",
        auth_type="trust",
    )


class Pair:
    """A primary and a synchronous standby, which takes over again and again."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.primary: Server
        self.standby: Server

    def __enter__(self) -> Self:
        with self._stack:
            settings = {**QUICK, "autovacuum": "off"}
            self.primary = self._stack.enter_context(Server(settings=settings))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def follow(self, port: int | None = None) -> None:
        """Have a standby on this port; what is committed from now on is there too."""
        self.standby = self._stack.enter_context(Standby(self.primary, settings=QUICK, port=port))
        self.primary.configure(**SYNCHRONOUS)
        self.primary.execute("CREATE TABLE followed ()")  # returns when the standby has it
        self.primary.execute("DROP TABLE followed")

    def fail_over(self, mode: Mode) -> None:
        """Stop the primary and promote the standby."""
        before = self.primary
        before.stop(mode)
        self.standby.execute("SELECT pg_promote(wait => true)")
        self.primary, self.standby = self.standby, before

    def rebuild(self) -> None:
        """Have a standby again, where the primary was before."""
        before, self.standby = self.standby, self.primary
        before.close()
        self.follow(before.port)

    def database(self, name: str, options: dict[str, object]) -> dict[str, Any]:
        """Return an entry for DATABASES that leads to whichever is the primary."""
        both = {"sslmode": "require", "target_session_attrs": "read-write", **options}
        servers = sorted((self.primary, self.standby), key=lambda server: server.port)
        return {
            **self.primary.database(name),
            "HOST": ",".join(server.host for server in servers),
            "PORT": ",".join(str(server.port) for server in servers),
            "OPTIONS": both,
            "CONN_MAX_AGE": None,
        }


class OnPair(Stage):
    """A stage whose server may be gone for a moment."""

    def kill(self, pid: int) -> bool:
        """While the servers change their roles nobody can be killed."""
        with suppress(Exception):
            return super().kill(pid)
        return False


class FailOver:
    """One failover in a play, in a thread of its own: programs go on meanwhile."""

    def __init__(self, pair: Pair, stage: Stage) -> None:
        self._pair, self._stage = pair, stage
        self._thread: threading.Thread | None = None

    def begin(self, mode: Mode, ended: Callable[[], None]) -> None:
        """Begin it, unless there was one; ``ended`` is called when sessions may live again."""
        if self._thread is not None:
            return

        def run() -> None:
            try:
                self._pair.fail_over(mode)
            finally:
                ended()

        self._thread = threading.Thread(target=run, name="failover")
        self._thread.start()

    def finish(self) -> None:
        """Wait until it is over, and have a standby again."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._stage.move(self._pair.primary)
            self._pair.rebuild()
