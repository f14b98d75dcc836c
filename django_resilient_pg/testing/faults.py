"""What is to be lost: which statement of an alias, and when in its life."""

from __future__ import annotations

from typing import Any, Final, Literal

from .errors import OutageError

#: When the connection is lost: before anything of the statement is sent; after it was sent, and
#: the server never gets it; after the server has run it, and its answer never comes back.
Point = Literal["before", "during", "after"]
#: Who ends it: the path between (the connection is reset), or the server (57P01).
By = Literal["path", "server"]

#: What the drivers send without a statement of the application's.
OF_DRIVERS: Final = ("begin", "commit")


class Fault:
    """One loss that was asked for.

    Args:
        point: when the connection is lost.
        statement: a part of the statement's text; "BEGIN" and "COMMIT" mean those that Django sends
            for ``atomic()``. ``None``: any statement.
        nth: which of those that match.
        by: who ends the connection.

    Raises:
        OutageError: they do not go together.
    """

    def __init__(self, point: Point, statement: str | None, nth: int, by: By) -> None:
        self.point: Final = point
        self.by: Final = by
        self.reached = False
        self._left = nth
        _check(statement, nth, by)
        self._text = None if statement is None else " ".join(statement.lower().split())
        if by == "server" and point == "after":
            raise OutageError(
                'by="server" goes with before() and during(): a session that is terminated after '
                "its answer has not lost it"
            )

    @property
    def is_begin(self) -> bool:
        """Whether the BEGIN before a first statement is meant."""
        return self._text == "begin"

    @property
    def armed(self) -> bool:
        """Whether it is still to come."""
        return self._left > 0

    def meets(self, text: str) -> bool:
        """Whether this statement is the one; each is asked of once."""
        if self.armed and self._matches(" ".join(text.lower().split())):
            self._left -= 1
            return not self._left
        return False

    def happened(self) -> None:
        """The connection was lost."""
        self.reached = True

    def _matches(self, text: str) -> bool:
        if self._text is None:
            return text not in OF_DRIVERS
        if self._text in OF_DRIVERS:
            return text.rstrip("; ") == self._text
        return self._text in text

    def __str__(self) -> str:
        what = "no statement" if self._text is None else f'nothing with "{self._text}"'
        return f"{what} was sent, so the connection was not lost {self.point} it"


def _check(statement: object, nth: int, by: str) -> None:
    if not (statement is None or (isinstance(statement, str) and statement.strip())):
        raise OutageError("statement must be a part of a statement's text, or None for any")
    if nth < 1:
        raise OutageError(f"nth must be at least 1, not {nth}")
    if by not in ("path", "server"):
        raise OutageError(f'by must be "path" or "server", not {by!r}')


def text_of(sql: Any, connection: Any) -> str:
    """The text of what was given to a cursor."""
    if isinstance(sql, bytes):
        return sql.decode(errors="replace")
    return sql if isinstance(sql, str) else str(sql.as_string(connection))
