"""How a pool's connections are made: with credentials of their own, and noting what went wrong."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from ..driver.choose import link_to
from ..state.logins import Logins, own


class Failure(NamedTuple):
    """The pool's last attempt to connect, or to set up what it connected, which failed."""

    at: float
    error: Exception


class ConnectionMaker:
    """Makes the pool's connections, in its worker threads; remembers the last failure."""

    def __init__(
        self,
        alias: str,
        credentials: str | None,
        logins: Logins,
        begun: Callable[[], object] = lambda: None,
    ) -> None:
        self.failure: Failure | None = None
        self._alias, self._credentials, self._logins = alias, credentials, logins
        self._begun = begun
        #: Called with each new connection.
        self.made: Callable[[Any], object] = lambda connection: None

    def attempt(self, connect: Callable[[dict[str, str]], Any]) -> Any:
        """Make one attempt, with what the ``credentials`` option gives for it."""
        self._begun()
        if self._credentials is None:
            return connect({})
        return self._logins.connect(self._alias, self._credentials, connect)

    def failed(self, error: Exception) -> None:
        """Remember why there is no connection."""
        # A copy: the traceback of the error leads to the password.
        self.failure = Failure(monotonic(), own(error))

    def noting(self, configure: Callable[[Any], object]) -> Callable[[Any], None]:
        """``configure``, whose error (a role that is refused) is the attempt's as well."""

        def set_up(connection: Any) -> None:
            try:
                configure(connection)
            except Exception as error:
                self.failed(error)
                connection.close()
                raise
            self.failure = None

        return set_up

    def class_over(self, base: type[Any]) -> type[Any]:
        """A connection class that tells how its attempts went."""
        maker = self

        class PooledConnection(base):  # type: ignore[misc]
            """A connection that knows when it was made."""

            made_at: float
            luck: float  # its part of the jitter
            put_away: bool
            lent: bool  # before; others may have left something on it
            refused: bool  # by the user's own check
            loan: Any  # of the last time it was lent
            ends_at: float  # when it is too old, once that was judged

            def note_statement(self, text: object) -> None:
                """What is about to be run on it, where the pool asks who holds its connections."""
                if hasattr(self.loan, "text"):
                    self.loan.text = text

            @classmethod
            def connect(cls, *args: Any, **kwargs: Any) -> Any:
                connect = super().connect
                try:
                    made = maker.attempt(lambda login: connect(*args, **{**kwargs, **login}))
                except Exception as error:
                    maker.failed(error)
                    raise
                # Of its own, not its class's: those are found sooner.
                made.put_away = made.lent = made.refused = False
                made.loan, made.ends_at = None, -math.inf
                made.made_at, made.luck = monotonic(), random.random()
                link_to(made, maker._alias)
                maker.made(made)
                return made

        PooledConnection.__qualname__ = PooledConnection.__name__
        # Tracers name a connection's spans by the driver, which they tell by its module (ddtrace).
        PooledConnection.__module__ = base.__module__
        return PooledConnection


class _SaidAlready(logging.Filter):
    """psycopg_pool warns of every closed connection; of ours we have said more already."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        given = record.args if isinstance(record.args, tuple) else ()
        return not any(getattr(value, "put_away", False) for value in given)


logging.getLogger("psycopg.pool").addFilter(_SaidAlready())
