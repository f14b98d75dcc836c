"""What the probes and the status page say, where nobody else has said it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ..conf.secrets import scrubbed
from ..policy.messages import seconds as duration
from ..policy.plain import plain

NO_THREAD: Final = "no thread could be started to ask it"
NO_USE: Final = "it was connected to, but does not answer"
#: Of who asks for ``status/``, where the database that has the users cannot be asked.
WHO: Final = (
    "Cannot tell whether you are staff: the database that has the users, or the sessions, is not"
    " reachable. RESILIENT_PG_STATUS_TOKEN works without it."
)
STAFF: Final = "The status page is for staff."
#: Where the driver does not tell the version (psycopg 3).
TLS: Final = "in use"

_QUOTED: Final = re.compile(r"\"[^\"]*\"")


def no_answer(seconds: float) -> str:
    """Nothing came in time."""
    return f"no answer within {duration(seconds)}"


def raised(error: BaseException) -> str:
    """An error of somebody else's code, whose text may hold anything."""
    return f"{type(error).__name__} was raised"


def hiding(
    entry: Mapping[str, Any], secrets: Iterable[object], user: object
) -> Callable[[str], str]:
    """What makes a text fit to be shown: without secrets and control characters.

    Args:
        entry: of DATABASES, whose values may hold what was pasted into the wrong place.
        secrets: what it connects with, if anything.
        user: whose name may have a password behind it, ``user:password``.
    """
    hidden = [str(one) for one in (*secrets, str(user or "").partition(":")[2]) if one]

    def hide(text: str) -> str:
        for one in hidden:
            text = text.replace(one, "***")
        return plain(scrubbed(text, entry))

    return hide


def public(reason: str) -> str:
    """A reason without the names in it (hosts, users, databases): anybody may ask ``ready/``."""
    return _QUOTED.sub('"..."', reason)
