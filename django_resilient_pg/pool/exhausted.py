"""What is said where a pool has lent no connection in time. Imported with the pool."""

from __future__ import annotations

from psycopg_pool import PoolTimeout, TooManyRequests

from ..conf.records import Record
from ..driver.exceptions import first_line
from ..state.wrapper import Wrapper
from .pool_connection import Failure


class WaitedLongEnough(PoolTimeout):
    """The time that there was has passed."""

    final = True  # see connecting.connect_again


class EnoughAreWaiting(TooManyRequests):
    """``max_waiting`` sheds load: trying again would be waiting all the same."""

    final = True


class Pool(Record):
    """A pool, as far as its error tells.

    Attributes:
        db: the wrapper that has made it.
        failure: its last attempt to connect, if that has failed.
        lent: how many connections are in use.
        most: how many there may be.
    """

    db: Wrapper
    failure: Failure | None
    lent: int
    most: int


def why(pool: Pool, allowed: float, refused: str) -> str:
    """Why there was no connection, and what to do.

    Args:
        pool: of which none came.
        allowed: seconds that were waited.
        refused: the error by which the user's own check has refused one meanwhile, if any.
    """
    text, alias = f"couldn't get a connection after {allowed:.2f} sec", pool.db.alias
    if pool.failure is not None:
        line = first_line(pool.failure.error, pool.db.settings_dict)
        return f"{text}: no new one could be made ({line})"
    if refused:
        return (
            f"{text}: the pool's check refused the last one by {refused}; look into"
            f' OPTIONS["pool"]["check"] of "{alias}"'
        )
    text = f"{text}: {pool.lent} of at most {pool.most} are in use"
    if pool.lent < pool.most:
        return (
            f"{text}, the others still being made; find out why connecting takes so long"
            f' (manage.py checkdbconn), or allow "{alias}" a longer retry_deadline'
        )
    return f'{text}; raise OPTIONS["pool"]["max_size"] of "{alias}" or hold them for less time'
