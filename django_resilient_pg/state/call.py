"""One statement as the application sent it, kept for what follows when it fails.

On the healthy path only the class is imported; what reads the text is imported by its methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, Final

from ..driver.link import FAILED, IDLE
from ..sql.memory import is_harmless
from ..sql.texts import text_of

if TYPE_CHECKING:
    from typing import Protocol

    from ..driver.link import Link
    from ..sql.statements import Statement

    class Renewable(Protocol):
        """A cursor wrapper whose driver cursor can be replaced."""

        cursor: Any
        _link: Any

        def _renew(self) -> None:
            """Put a driver cursor of the present connection under it."""


# SQLSTATE classes that say nothing but that the statement is wrong, or its data: data exceptions,
# constraints, syntax and names, WITH CHECK OPTION, PL/pgSQL. There is no entry in ``error_table``
# that does anything about them, once there is a connection.
_WRONG: Final = frozenset({"22", "23", "42", "44", "P0"})
# PQtransactionStatus where the server waits for the next statement.
_READY: Final = frozenset({IDLE, FAILED})
# What BEGIN READ ONLY changes.
_READ_ONLY_SETTING = "transaction_read_only"


class Call:
    """One statement, and where it stood in its transaction.

    Args:
        wrapper: the cursor wrapper.
        run: sends ``(sql, params)`` on the wrapper's present driver cursor.
        sql, params: as they were given.
        first: its transaction had run nothing before it but what can be replayed.
        status: ``PQtransactionStatus`` before it was sent.
        many: ``params`` are many rows.
    """

    __slots__ = ("first", "many", "params", "run", "sql", "status", "wrapper")

    def __init__(
        self,
        wrapper: Renewable,
        run: Callable[[Any, Any], Any],
        sql: Any,
        params: Any,
        first: bool,
        status: int,
        many: bool = False,
    ) -> None:
        self.wrapper, self.run = wrapper, run
        self.sql, self.params = sql, params
        self.first, self.status, self.many = first, status, many

    def statement(self, link: Link) -> Statement:
        """What its text says, read by the rules of the server it is sent to."""
        import dataclasses

        from ..driver.literals import has_text
        from ..sql.statements import STANDARD_STRINGS, Kind, analyse

        standard = link.parameter(STANDARD_STRINGS) != "off"
        found = analyse(text_of(self.sql, link.connection), standard_strings=standard)
        if has_text(self.params, self.wrapper.cursor):
            return dataclasses.replace(found, kind=Kind.UNREPEATABLE)
        return found

    def is_wrong(self, error: Any, status: int) -> bool:
        """Whether an error is of the statement alone, told without reading anything.

        Args:
            error: the driver's.
            status: ``PQtransactionStatus`` after it. After an error that ends the session the
                server is not ready for the next statement, which it is where this is settled.
        """
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        return code[:2] in _WRONG and status in _READY

    @property
    def is_harmless(self) -> bool:
        """Whether its text, unless there is more to it, certainly leaves nothing behind."""
        return self.sql.__class__ is str and is_harmless(self.sql)

    @property
    def text(self) -> str:
        """What it is known by to units of work."""
        return self.sql if isinstance(self.sql, str) else repr(self.sql)

    @property
    def repeatable(self) -> bool:
        """Whether its parameters can be gone through again."""
        return not isinstance(self.params, Iterator)

    def asks_if_read_only(self) -> bool:
        """Whether its answer depends on the transaction that it is retried in."""
        values = self.params.values() if isinstance(self.params, Mapping) else self.params
        texts = [text_of(self.sql)]
        if isinstance(values, (list, tuple, ValuesView)):
            texts += [one for one in values if isinstance(one, str)]
        return any(_READ_ONLY_SETTING in one.lower() for one in texts)
