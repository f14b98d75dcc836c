"""How the transaction under way began, as far as another connection can be given the same. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from ..sql.local_settings import Local

#: A savepoint, by its name, or a statement that sets something for the transaction.
Step: TypeAlias = "str | Local"
#: More settings than this are not kept.
MOST_SETTINGS: Final = 50


class Opening(list[Step]):
    """The open savepoints, and the settings that the transaction began with, in order.

    Attributes:
        read: how many bytes were read from the server when its last step was done, and who tells;
            ``None``: it has no settings.
    """

    __slots__ = ("read",)

    def __init__(self) -> None:
        super().__init__()
        self.read: tuple[int, Callable[[], int | None]] | None = None

    @property
    def has_savepoints(self) -> bool:
        """Whether a savepoint is open."""
        return any(isinstance(step, str) for step in self)

    def forget(self) -> None:
        """The transaction is over, or has run more."""
        self.clear()
        self.read = None

    # -- settings ---------------------------------------------------------------------------

    def began_with(self, setting: Local, bytes_read: Callable[[], int | None]) -> bool:
        """A first statement has only set something for the transaction; whether that is kept.

        Args:
            setting: the statement.
            bytes_read: how many bytes were read from its server; ``None``: nobody knows, so what is
                run past Django's cursors would not be noticed.
        """
        # In a savepoint the mode of the transaction ends with the savepoint, released or not.
        if setting.of_transaction and self.has_savepoints:
            return False
        if len(self) >= MOST_SETTINGS:
            settings = sum(not isinstance(step, str) for step in self)
            if settings >= MOST_SETTINGS:
                return False
        known = bytes_read()
        if known is None:
            return False
        self.append(setting)
        self.read = known, bytes_read
        return True

    def replayed(self, bytes_read: Callable[[], int | None]) -> bool:
        """All of it was done again; whether it would be noticed that more is run unseen."""
        if all(isinstance(step, str) for step in self):
            return True
        known = bytes_read()
        if known is not None:
            self.read = known, bytes_read
        return known is not None

    def read_on(self) -> None:
        """A savepoint statement was answered."""
        if self.read is not None:
            _, bytes_read = self.read
            self.read = bytes_read() or 0, bytes_read

    def has_unseen(self) -> bool:
        """Whether more was answered after its settings: what was run past Django's cursors."""
        if self.read is None:
            return False
        before, bytes_read = self.read
        now = bytes_read()
        # The end of the stream counts as one; no answer is as short.
        return now is None or not 0 <= now - before <= 1

    # -- savepoints -------------------------------------------------------------------------

    def saved(self, sid: str) -> None:
        """A savepoint was made."""
        self.append(sid)

    def rolled_back_to(self, sid: str) -> None:
        """What came after this savepoint is undone; the savepoint itself stays."""
        if sid in self:
            del self[self._last(sid) + 1 :]

    def released(self, sid: str) -> None:
        """A savepoint is no more, nor are those after it; what was set since then stays set."""
        if sid in self:
            last = self._last(sid)
            self[last:] = [one for one in self[last:] if not isinstance(one, str)]

    def _last(self, sid: str) -> int:
        """Where it is; ``clean_savepoints()`` has Django use names again."""
        return len(self) - 1 - self[::-1].index(sid)
