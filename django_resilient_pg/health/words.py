"""What the probes and the status page say, where nobody else has said it."""

from __future__ import annotations

import re
from typing import Final

from ..policy.messages import seconds as duration

NO_THREAD: Final = "no thread could be started to ask it"
NO_USE: Final = "it was connected to, but does not answer"
#: Of who asks for ``status/``, where the database that has the users cannot be asked.
WHO: Final = (
    "Cannot tell whether you are staff: the database that has the users, or the sessions, is not"
    " reachable. RESILIENT_PG_STATUS_TOKEN works without it."
)
STAFF: Final = "The status page is for staff."

_QUOTED: Final = re.compile(r"\"[^\"]*\"")


def no_answer(seconds: float) -> str:
    """Nothing came in time."""
    return f"no answer within {duration(seconds)}"


def raised(error: BaseException) -> str:
    """An error of somebody else's code, whose text may hold anything."""
    return f"{type(error).__name__} was raised"


def public(reason: str) -> str:
    """A reason without the names in it (hosts, users, databases): anybody may ask ``ready/``."""
    return _QUOTED.sub('"..."', reason)
