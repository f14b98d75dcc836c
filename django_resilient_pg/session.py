"""What a session holds that a new one would not: what pins the connection.

Replaying it comes with a later version; until then a pinned connection is never replaced under
the application (design section 4.5). On the healthy path a statement costs one look-up in a set.
"""

from __future__ import annotations

from typing import Final

#: Texts known to leave nothing behind in a session. Shared by all threads of the process;
#: additions are atomic, and losing one costs a second look.
HARMLESS: set[str] = set()
_MOST_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED: Final = 8192

_DATA_WORDS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "MERGE")
# Savepoints end with their transaction, and each has a name of its own: not worth remembering.
_PASSING_WORDS: Final = ("SAVEPOINT", "RELEASE", "ROLLBACK", "COMMIT")
_TRACES: Final = ("set_config", "advisory", "temp")


class Session:
    """The state one physical session has gathered.

    Attributes:
        pinned_by: the words of the statement that changed the session first, "" for none.
    """

    __slots__ = ("pinned_by",)

    def __init__(self) -> None:
        self.pinned_by = ""

    def note(self, sql: object) -> None:
        """Take note of a statement that succeeded; called only for texts not yet known."""
        text = sql if isinstance(sql, str) else text_of(sql)
        head = text[:9].upper()
        if head.startswith(_PASSING_WORDS):
            return
        if head.startswith(_DATA_WORDS):
            lowered = text.lower()
            if not any(trace in lowered for trace in _TRACES):
                _remember(text)
                return
        # Imported where it is first needed: its patterns take longer to compile than the engine
        # takes to import.
        from .statements import analyse

        if pins := analyse(text).pins:
            self.pinned_by = self.pinned_by or pins
        else:
            _remember(text)


def _remember(text: str) -> None:
    if len(text) > _LONGEST_REMEMBERED:
        return
    if len(HARMLESS) >= _MOST_REMEMBERED:
        HARMLESS.clear()
    HARMLESS.add(text)


def text_of(sql: object) -> str:
    """The text of what is not a str: bytes, or a driver's composed SQL.

    Composed SQL is read through its representation, which shows every literal word of it: good
    enough to find what pins, never used to decide that something may run again.
    """
    if isinstance(sql, bytes):
        return sql.decode("utf-8", "replace")
    as_string = getattr(sql, "as_string", None)
    if as_string is None:
        return str(sql)
    try:
        return str(as_string(None))
    except Exception:  # psycopg2 needs a connection to quote; its words are in the repr
        return repr(sql)
