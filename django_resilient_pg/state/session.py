"""What a session holds that a new one would not: what to do again there, what pins the old one.

On the healthy path a statement costs one look-up in a set (design section 4.5). What is done
again is done by :mod:`..connecting.setup`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from ..sql.memory import LONGEST, LONGEST_READ, make_room
from ..sql.quotes import emptied, without_strings

if TYPE_CHECKING:
    from ..sql.session_effects import Assignment, Effect, Local

    # What pinned a session, and what was set in it.
    Held = tuple[dict[str, str], dict[str, Assignment]]

#: Texts known to leave nothing behind in a session. Shared by all threads of the process;
#: additions are atomic, and losing one costs a second look.
HARMLESS: set[str] = set()
# Of long ones what stands outside of their strings. A set of its own: in a short text an identifier
# may look like an emptied string.
_LONG: Final[set[str]] = set()
_MOST_LONG: Final = 128
_LONGEST_KEPT: Final = 65_536
# What texts set that have no parameters and do nothing else.
_SETTINGS: Final[dict[object, tuple[Assignment, ...]]] = {}
#: Settings kept of one session; a session that has made more (names made up on the way) is pinned.
_MOST_SETTINGS: Final = 200

_DATA_WORDS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "MERGE")
# Savepoints end with their transaction, and each has a name of its own: not worth remembering.
_PASSING_WORDS: Final = ("SAVEPOINT", "RELEASE", "ROLLBACK", "COMMIT", "END", "ABORT")
_TRACES: Final = ("set_config", "advisory", "setseed", "pg_settings", 'u&"', ";")


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
        text = sql if isinstance(sql, str) else text_of(sql, driver)
        head = text[:9].upper()
        if head.startswith(_PASSING_WORDS) and ";" not in text:
            self.controlled(saving=saving)
            return
        escapes = "\\" in text and _escapes(driver)
        if head.startswith(_DATA_WORDS) and _leaves_nothing(text, escapes=escapes):
            return
        if len(text) > LONGEST_READ:
            self.pin("a text too long to be read")
            self.controlled(saving=saving)
        elif escapes:
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
        from ..sql.session_effects import (
            AUTHORIZATION,
            DISCARD_ALL,
            IN_PARTS,
            PIN,
            RESET_ALL,
            ROLE,
            SURVIVES_RESET,
            UNTIL_DISCARD,
        )

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
    text = sql if isinstance(sql, str) else _composed(sql, driver)
    if len(text) > LONGEST or "\\" in text:
        return None
    if text.lstrip()[:3].upper() != "SET" and "set_config" not in text.lower():
        return None
    try:
        found: Local | None = _reader().local_of(text, params)
    except OSError:  # no file descriptor is left
        return None
    return found


def only_sets(sql: object, params: Any, *, driver: Any) -> bool:
    """Whether all that a statement leaves, and does, is settings that a new session is given.

    Args:
        sql, params, driver: as of :func:`local_setting`.
    """
    text = sql if isinstance(sql, str) else _composed(sql, driver)
    if not 0 < len(text) <= LONGEST or ("\\" in text and _escapes(driver)):
        return False
    try:
        effect: Effect = _reader().effect_of(text, sql, params)
    except OSError:  # no file descriptor is left
        return False
    more = effect.pins or effect.frees or effect.controls or effect.passes
    return bool(effect.assignments) and not more


def _composed(sql: object, driver: Any) -> str:
    """The whole text of a driver's composed SQL, or ""."""
    as_string = getattr(sql, "as_string", None)
    if as_string is None:
        return ""
    try:
        return str(as_string(driver))
    except Exception:  # of what cannot be put into text without what only the driver has
        return ""


def is_harmless(text: str) -> bool:
    """Whether a text is one statement on data that leaves session and transaction as they were.

    However it ends. Unlike :data:`HARMLESS`, in which there may be CALL, it knows long texts.
    """
    if "\\" in text:
        return False  # which may escape the end of a string
    if len(text) > LONGEST:
        outside = emptied(text)
        if len(outside) <= _LONGEST_KEPT and outside in _LONG:
            return True
    if not text[:9].upper().startswith(_DATA_WORDS):
        return False
    return (text in HARMLESS and ";" not in text) or _leaves_nothing(text)


def _leaves_nothing(text: str, *, escapes: bool = False) -> bool:
    """Whether a statement on data certainly leaves its session as it was.

    Args:
        text: which begins with one of :data:`_DATA_WORDS`.
        escapes: a backslash in it may escape the end of a string.
    """
    short = len(text) <= LONGEST
    outside = None if short or escapes else without_strings(text)
    lowered = (outside or text).lower()
    if any(trace in lowered for trace in _TRACES) or _is_temporary(lowered):
        return False
    if short:
        _remember(text)
    elif outside and len(outside) <= _LONGEST_KEPT:
        make_room(_LONG, _MOST_LONG)
        _LONG.add(outside)
    return True


def _is_temporary(lowered: str) -> bool:
    """Whether there is a word for temporary tables; columns called template_id are common."""
    return "temp" in lowered and _temporary().search(lowered) is not None


@cache
def _temporary() -> re.Pattern[str]:
    return re.compile(r"temp(?:orary|_\d+)?\b")


def _escapes(driver: Any) -> bool:
    """Whether a backslash escapes the end of a string in this session, for all that it reports."""
    if driver is None:
        return False
    return bool(driver.info.parameter_status("standard_conforming_strings") == "off")


def _remember(text: str) -> None:
    if len(text) <= LONGEST:
        make_room(HARMLESS)
        HARMLESS.add(text)


def _remember_effectless(text: str, effect: Effect) -> None:
    # What set_config does depends on its parameters.
    depends = "\\" in text or "set_config" in text.lower()
    if text.lstrip()[:3].upper() == "SET":
        _remember_setting(text, effect)  # not as harmless: local_setting() has to see it each time
    elif not (effect.controls or effect.frees or depends):
        _remember(text)


def _remember_setting(text: str, effect: Effect) -> None:
    plain = not (effect.controls or effect.frees) and "\\" not in text
    if plain and len(text) <= LONGEST:
        make_room(_SETTINGS)
        _SETTINGS[text] = effect.assignments


def text_of(sql: object, driver: Any = None) -> str:
    """The text of what is not a str: bytes, or a driver's composed SQL.

    Of what cannot be put into text without ``driver`` (psycopg2's composed SQL) every word is
    there, but no name and no value.
    """
    if isinstance(sql, bytes):
        return sql.decode("utf-8", "replace")
    as_string = getattr(sql, "as_string", None)
    if as_string is None:
        return str(sql)
    try:
        return str(as_string(driver))
    except Exception:
        return _words(sql)


def _words(sql: Any) -> str:
    """What composed SQL says but for its names and values: psycopg2 quotes by a connection only."""
    kinds = {kind.__name__ for kind in type(sql).__mro__}
    inside = getattr(sql, "_wrapped", None) or getattr(sql, "_obj", None)  # psycopg2, psycopg
    if "Composed" in kinds:
        return "".join(map(_words, inside or ()))
    if "SQL" in kinds:
        return str(inside)
    return ' "x" ' if "Identifier" in kinds else " '' "
