"""Connecting with what the ``credentials`` option gives, and not twice with what was refused.

Servers and directories lock an account after a few wrong passwords. So while a login that may have
been changed in between is waited for, the callable is asked again, and the server only once it has
returned something else.
"""

import copy
import hmac
import math
import os
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from ..conf.records import Record
from ..driver.exceptions import judge_error
from ..policy.error_table import LOGIN_REFUSED
from ..policy.verdicts import Phase

# Fresh credentials may have been asked for just before they were changed, or the place they come
# from lag a little behind the server: so long they are asked for again. Seconds.
ROTATES: Final = 1.0
_KEY: Final = os.urandom(32)


def was_refused(error: BaseException) -> bool:
    """Whether the server refused the user or the password."""
    return judge_error(None, error, Phase.CONNECT).rule in LOGIN_REFUSED


class _Refused(Record):
    at: float
    mark: bytes
    error: Exception


class Logins:
    """The last login that was refused, for all threads of an alias.

    Not the login itself is kept but a keyed hash of it. Nothing is locked: losing one of two
    refusals costs one more attempt.

    Attributes:
        accepted_at: when a server last accepted a login, by the monotonic clock.
    """

    def __init__(self) -> None:
        self._refused: _Refused | None = None
        self.accepted_at = -math.inf

    def connect(self, alias: str, path: str, attempt: Callable[[dict[str, str]], Any]) -> Any:
        """Ask the callable at ``path`` and connect by ``attempt`` with what it returns.

        Raises:
            Exception: the attempt's own; what the same login had got if that was just now.
        """
        from .credentials import ask

        login = ask(alias, path)
        mark, known = _mark(login), self._refused
        try:
            if known is not None:
                if monotonic() - known.at < ROTATES and mark == known.mark:
                    raise own(known.error)
                self._refused = None
            connected = attempt(login)
            self.accepted_at = monotonic()
            return connected
        except Exception as error:
            if was_refused(error):
                # A copy: the traceback of the error leads to the password.
                self._refused = _Refused(monotonic(), mark, own(error))
            raise
        finally:
            login.clear()  # the frames of the attempt, which a traceback keeps, hold the same dict


def own(error: Exception) -> Exception:
    """An error of its own for each thread, without a traceback: notes are added to it."""
    try:
        return copy.copy(error)
    except Exception:  # one that cannot be made again from its arguments
        return error


def _mark(login: dict[str, str]) -> bytes:
    return hmac.digest(_KEY, repr(sorted(login.items())).encode(), "sha256")
