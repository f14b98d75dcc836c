"""What a session holds that a new one would not: what to do again there, what pins the old one.

On the healthy path a statement costs one look-up in a set (design section 4.5). What is done
again is done by :mod:`..connecting.setup`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from ..sql.memory import DATA_WORDS, LONGEST, LONGEST_READ, leaves_nothing, make_room, remember
from ..sql.texts import certain_text, text_of

if TYPE_CHECKING:
    from ..sql.local_settings import Local
    from ..sql.session_effects import Assignment, Effect

    # What pinned a session, and what was set in it.
    Held = tuple[dict[str, str], dict[str, Assignment]]

# What texts set that have no parameters and do nothing else.
_SETTINGS: Final[dict[object, tuple[Assignment, ...]]] = {}
#: Settings kept of one session; a session that has made more (names made up on the way) is pinned.
_MOST_SETTINGS: Final = 200

# Savepoints end with their transaction, and each has a name of its own: not worth remembering.
_PASSING_WORDS: Final = ("SAVEPOINT", "RELEASE", "ROLLBACK", "COMMIT", "END", "ABORT")


class Where(enum.Enum):
    """In what a statement ran."""

    AUTOCOMMIT = "autocommit"
    #: Of Django's making: its end is known.
    TRANSACTION = "transaction"
    #: BEGIN was sent as text, or the parameters were many: what became of it is not known.
    UNCLEAR = "unclear"


class Session:
    """The state one physical session has gathered.

    Attributes:
        settings: what was set, by name, in the order in which it is to be set again.
        pending: what was set in the transaction under way, and what is to pin once it is committed.
        registered: what was registered on the lost connection of the driver, for the next one.
        continues: the physical session is gone; the next one stands in for it, below the same unit
            of work.
    """

    __slots__ = ("_locks", "_marks", "_pins", "continues", "pending", "registered", "settings")

    def __init__(self) -> None:
        # By kind (``session_effects``), the words of the first statement that pinned.
        self._pins: dict[str, str] = {}
        # By kind, how often each lock may be held: no less often than it is.
        self._locks: dict[str, int] = {}
        self.settings: dict[str, Assignment] = {}
        self.pending: list[Assignment] = []
        self.continues = False
        self.registered: dict[str, Any] | None = None
        self._marks: dict[str, int] = {}

    @property
    def pinned_by(self) -> str:
        """The words of the statement that first did what cannot be done again, or ""."""
        return next(iter(self._pins.values()), "")

    @property
    def holds(self) -> bool:
        """Whether a new session would differ."""
        return bool(self._pins or self.settings or self.pending)

    @property
    def blank(self) -> bool:
        """Whether it is as good as one made just now."""
        if self.continues or self._pins or self.settings or self.pending or self._marks:
            return False
        return self.registered is None  # and where there are locks, something is pinned

    @property
    def due(self) -> bool:
        """Whether the next physical session has to be given all this before it is used."""
        return self.continues and self.holds

    def note(
        self,
        sql: object,
        params: Any = None,
        where: Where = Where.AUTOCOMMIT,
        *,
        driver: Any = None,
        replays: bool = True,
        saving: bool = False,
    ) -> None:
        """Take note of a statement that succeeded; called only for texts not yet known.

        Args:
            sql: as it was given to the cursor.
            params: what went with it.
            where: in what it ran.
            driver: the driver's connection, by which it quotes composed SQL.
            replays: whether settings are made again (option ``replay_session``).
            saving: whether Django itself deals with savepoints.
        """
        plain = sql.__class__ is str and params is None and replays
        if plain and where is Where.TRANSACTION and sql in _SETTINGS:
            self.pending += _SETTINGS[sql]
            return
        if not isinstance(sql, (str, bytes)) and not hasattr(sql, "as_string"):
            self.pin(f"a statement given as {type(sql).__name__}")
            return
        text = text_of(sql, driver)
        head = text[:9].upper()
        if head.startswith(_PASSING_WORDS) and ";" not in text:
            self.controlled(saving=saving)
            return
        escaped = "\\" in text and escapes(driver)
        if head.startswith(DATA_WORDS) and leaves_nothing(text, escapes=escaped):
            return
        if len(text) > LONGEST_READ:
            self.pin("a text too long to be read")
            self.controlled(saving=saving)
        elif escaped:
            # Where its strings end is not certain, so what it does is not either.
            self.pin("a text with a backslash, without standard_conforming_strings")
            self.controlled(saving=saving)
        elif self._look_closely(text, sql, params, where, replays=replays):
            self.controlled(saving=saving)

    def controlled(self, *, saving: bool = False) -> None:
        """The transaction was controlled by hand: which of its settings are left is not known."""
        if self.pending and not saving:
            from ..sql.session_effects import UNTIL_DISCARD

            words = f"{self.pending[0].words} in a transaction ended by hand"
            self.pin(words, UNTIL_DISCARD)

    def _look_closely(
        self, text: str, sql: object, params: Any, where: Where, *, replays: bool
    ) -> bool:
        """Whether it controls transactions; such a text is never taken for harmless."""
        try:
            reader = _reader()
        except OSError:  # no file descriptor is left
            self.pin("a text that could not be read when it was run")
            return True
        effect: Effect = reader.effect_of(text, sql, params)
        if effect.frees:
            self._unpin(effect.frees, where)
        if effect.passes and where is Where.TRANSACTION:
            self.pending.append(reader.Assignment(reader.PIN, None, None, effect.pins))
        elif effect.pins:
            self.pin(effect.pins, self._counted(effect.kind, where))
        elif not effect.assignments:
            _remember_effectless(text, effect)
        elif where is Where.UNCLEAR or not replays:
            self.pin(effect.assignments[0].words, reader.UNTIL_DISCARD)
        elif where is Where.TRANSACTION:
            self.pending += effect.assignments
            if params is None and sql.__class__ is str:
                _remember_setting(text, effect)
        else:
            self._assign(effect.assignments)
        return effect.controls

    def pin(self, words: str, kind: str = "") -> None:
        """From now on there is no other session like this one, unless it ends (``kind``)."""
        self._pins.setdefault(kind, words)

    def _counted(self, kind: str, where: Where) -> str:
        """Count a lock that is known by its numbers; the kind that it pins by."""
        from ..sql.session_effects import LOCKED

        if not kind.startswith(LOCKED) or kind == LOCKED:
            return kind
        if where is Where.UNCLEAR or len(self._locks) >= _MOST_SETTINGS:
            return LOCKED
        self._locks[kind] = self._locks.get(kind, 0) + 1
        return kind

    def _unpin(self, kind: str, where: Where) -> None:
        """What pins by this kind has ended; where that is not certain it stays."""
        from ..sql.session_effects import LISTENING, LOCKED, UNTIL_CLOSE, UNTIL_DISCARD

        if where is Where.UNCLEAR:
            return
        if kind in self._locks:
            # A try that got nothing was counted as well: it is never held more often than this.
            self._locks[kind] -= 1
            if not self._locks[kind]:
                del self._locks[kind], self._pins[kind]
        elif kind == LOCKED:
            self._locks.clear()
            self._pins = {k: w for k, w in self._pins.items() if not k.startswith(LOCKED)}
        elif where is not Where.AUTOCOMMIT:
            return  # UNLISTEN takes effect with COMMIT, if at all, and what follows it stays
        elif kind == UNTIL_DISCARD:
            self._locks.clear()
            self._pins = {k: w for k, w in self._pins.items() if k == UNTIL_CLOSE}
        elif kind == LISTENING:
            self._pins.pop(kind, None)

    def _assign(self, assignments: Sequence[Assignment]) -> None:
        """Keep the last value of each name, in the order in which they were given."""
        last = next(reversed(self.settings.values()), None)
        if len(assignments) == 1 and assignments[0] is last:
            return  # the same text once more
        from ..sql.session_effects import IN_PARTS, PIN, SURVIVES_RESET, UNTIL_DISCARD
        from ..sql.settings import AUTHORIZATION, DISCARD_ALL, RESET_ALL, ROLE

        settings = self.settings
        for one in assignments:
            if one.name == PIN:
                self.pin(one.words, UNTIL_DISCARD)
                continue
            if one.name == DISCARD_ALL:
                settings.clear()
            elif one.name == RESET_ALL:
                for name in settings.keys() - SURVIVES_RESET:
                    del settings[name]
            elif one.name == AUTHORIZATION:
                settings.pop(ROLE, None)  # the server takes it away as well
            name = f"{one.name} {one.sql!r} {one.params!r}" if one.name in IN_PARTS else one.name
            settings.pop(name, None)
            settings[name] = one
        if len(settings) > _MOST_SETTINGS:
            self.pin(f"more than {_MOST_SETTINGS} settings", UNTIL_DISCARD)

    # -- transactions -----------------------------------------------------------------------

    def savepoint(self, sid: str) -> None:
        """A savepoint was made while settings were pending."""
        self._marks[sid] = len(self.pending)

    def rolled_back_to(self, sid: str) -> None:
        """What was set since this savepoint is as it was."""
        del self.pending[self._marks.get(sid, 0) :]

    def committed(self) -> None:
        """What was set in the transaction holds."""
        self._assign(self.pending)
        self.rolled_back()

    def rolled_back(self) -> None:
        """What was set in the transaction is as it was."""
        self.pending, self._marks = [], {}

    def held(self) -> Held:
        """What is held now, as :meth:`of` takes it."""
        return dict(self._pins), dict(self.settings)

    @classmethod
    def of(cls, held: Held) -> Session:
        """A session that held this."""
        earlier = cls()
        earlier._pins, earlier.settings = held
        return earlier

    def gone(self) -> Session:
        """The physical session is lost or discarded, and with it the transaction under way."""
        self.rolled_back()
        self.continues = True
        return self

    def arrived(self) -> None:
        """The next physical session is in place and holds all of this."""
        self.continues = False
        self.registered = None


@cache
def _reader() -> Any:
    """The module that reads what is not known to be harmless; its patterns take long to compile."""
    from ..sql import session_effects

    return session_effects


def local_setting(sql: object, params: Any, *, driver: Any) -> Local | None:
    """A statement that has only set something for its transaction, for another connection.

    Args:
        sql: as it was given to the cursor.
        params: what went with it.
        driver: the driver's connection, by which it quotes composed SQL.

    Returns:
        ``None``: it did more, or that is not certain.
    """
    text = certain_text(sql, driver)
    if len(text) > LONGEST or "\\" in text:
        return None
    if text.lstrip()[:3].upper() != "SET" and "set_config" not in text.lower():
        return None
    try:
        from ..sql.local_settings import local_of
    except OSError:  # no file descriptor is left
        return None
    return local_of(text, params)


def escapes(driver: Any) -> bool:
    """Whether a backslash escapes the end of a string in this session, for all that it reports."""
    if driver is None:
        return False
    return bool(driver.info.parameter_status("standard_conforming_strings") == "off")


def _remember_effectless(text: str, effect: Effect) -> None:
    # What set_config does depends on its parameters.
    depends = "\\" in text or "set_config" in text.lower()
    if text.lstrip()[:3].upper() == "SET":
        _remember_setting(text, effect)  # not as harmless: local_setting() has to see it each time
    elif not (effect.controls or effect.frees or depends):
        remember(text)


def _remember_setting(text: str, effect: Effect) -> None:
    plain = not (effect.controls or effect.frees) and "\\" not in text
    if plain and len(text) <= LONGEST:
        make_room(_SETTINGS)
        _SETTINGS[text] = effect.assignments
