"""Whether databases can be reached: all of them asked at the same time, within a deadline.

Each alias is asked in a thread of its own. There is at most one such thread for an alias in a
process, however many probes come: who asks meanwhile is given the same answer if the database is
reached, and otherwise that of an attempt which has begun since.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from time import monotonic
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper

from ..conf.records import Record
from ..deadlines import deadline
from ..diagnosis.path.attempts import said
from ..driver.probes import Probe, Refused, probe
from ..driver.process import in_child
from ..policy.error_table import WRONG_PASSWORD
from ..policy.lookup import Lookup
from ..policy.places import Place, is_address, only, places
from ..policy.verdicts import Failure, Phase, judge
from ..state.aliases import is_ours
from ..state.credentials import ask as ask_credentials
from . import words

# Seconds more than the databases are given, so that their own words are heard.
_GRACE: Final = 0.02
# What it connects with is never shown, not even where a peer repeats it.
_SECRETS: Final = ("password", "sslpassword", "oauth_client_secret", "scram_client_key")
# Whose engines leave it to the driver to connect.
_KNOWN: Final = ("django.", "django_resilient_pg.")
_DUMMY: Final = "django.db.backends.dummy"


class Answer(Record):
    """What became of asking one alias.

    Attributes:
        reachable: whether a session came about and answered a query.
        reason: why not, without secrets; "" if it did.
        standby: whether the server is a standby; ``None``: it did not say.
        seconds: until the answer.
    """

    reachable: bool
    reason: str = ""
    standby: bool | None = None
    seconds: float = 0.0

    def _or(self, silent: Answer) -> Answer:
        """Itself, or where nothing was said what is to be said then."""
        return self if self.reachable or self.reason else silent


_SILENT: Final = Answer(False)


def aliases() -> list[str]:
    """Those of the project, without one that Django has only because there must be a "default"."""
    return [one for one in connections if connections.settings[one].get("ENGINE") != _DUMMY]


def ask(wanted: Iterable[str], seconds: float) -> dict[str, Answer]:
    """Ask these aliases, all at the same time; it takes ``seconds`` and a moment at most."""
    ends = monotonic() + seconds
    asked = {alias: _Question(seconds) for alias in wanted}
    for alias, question in asked.items():
        _put(alias, question)
    wait([one.answer for one in asked.values()], max(0.0, ends + _GRACE - monotonic()))
    silent = Answer(False, words.no_answer(seconds), None, seconds)
    found = {alias: one.answer.result() for alias, one in asked.items() if one.answer.done()}
    return {alias: found.get(alias, _SILENT)._or(silent) for alias in asked}


class _Question:
    """What one caller wants to know of one alias."""

    def __init__(self, seconds: float) -> None:
        self.at = monotonic()
        self.ends = self.at + seconds
        self.answer: Future[Answer] = Future()


#: What is to be answered by the thread of each alias that has one.
_lines: dict[str, list[_Question]] = {}
_lock = threading.Lock()


@in_child
def _forget() -> None:
    """After a fork: the threads that would answer are the parent's."""
    global _lock
    _lock = threading.Lock()
    _lines.clear()


def _put(alias: str, question: _Question) -> None:
    with _lock:
        if alias in _lines:
            _lines[alias].append(question)
            return
        line = _lines[alias] = [question]
        run = threading.Thread(target=_answer, args=(alias, line), name="health probe", daemon=True)
        try:
            run.start()
        except RuntimeError:  # no thread is left, or the interpreter ends
            del _lines[alias]
            question.answer.set_result(Answer(False, words.NO_THREAD))


def _answer(alias: str, line: list[_Question]) -> None:
    """Ask until everybody has an answer."""
    while line:
        began = monotonic()
        with _lock:
            ends = max(one.ends for one in line)
        answer = _asked(alias, ends)._replace(seconds=monotonic() - began)
        with _lock:
            # Who has come since an attempt began that failed gets another one.
            told = [one for one in line if answer.reachable or one.at <= began]
            line[:] = [one for one in line if one not in told]
            if not line and _lines.get(alias) is line:
                del _lines[alias]
        for one in told:
            one.answer.set_result(answer)


def _asked(alias: str, ends: float) -> Answer:
    try:
        return _reached(alias, ends)
    except BaseException as error:  # of an engine or a callable of the project's
        return Answer(False, words.raised(error))


def _reached(alias: str, ends: float) -> Answer:
    wrapper = connections[alias]  # of this thread, which ends with it
    if not _connects_by_driver(wrapper):
        return _by_engine(alias, ends)
    params = _parameters(wrapper)
    secrets = [params.get(name) for name in _SECRETS]
    hide = words.hiding(wrapper.settings_dict, secrets, params.get("user"))

    driver: Any = wrapper.Database  # type: ignore[attr-defined]
    try:
        every = [_at(driver, params, place) for place in places(Lookup(params, os.environ))]
        return _InTurn(every, ends).answer()
    except Refused as refused:
        return Answer(False, hide(said(str(refused))))


def _connects_by_driver(wrapper: BaseDatabaseWrapper) -> bool:
    """Whether its engine leaves connecting to the driver."""
    makers = [one for one in type(wrapper).__mro__ if "get_new_connection" in vars(one)]
    own = all(one.__module__.startswith(_KNOWN) for one in makers)
    return own and isinstance(wrapper, DatabaseWrapper)


def _by_engine(alias: str, ends: float) -> Answer:
    """By an engine's own way: of another database, or one that connects through a library."""
    entry = dict(connections.settings[alias])
    entry["OPTIONS"] = {k: v for k, v in entry.get("OPTIONS", {}).items() if k != "pool"}
    wrapper = type(connections[alias])(entry, alias)
    try:
        with deadline(max(0.0, ends - monotonic())):
            wrapper.connect()
        return Answer(True) if wrapper.is_usable() else Answer(False, words.NO_USE)
    finally:
        with contextlib.suppress(Exception):
            wrapper.close()


def _parameters(wrapper: BaseDatabaseWrapper) -> dict[str, Any]:
    """What the driver gets, with what the option ``credentials`` gives right now."""
    params: dict[str, Any] = wrapper.get_connection_params()
    path = wrapper.resilience.options.credentials if is_ours(wrapper) else None
    return {**params, **ask_credentials(wrapper.alias, path)} if path else params


def _at(driver: Any, params: dict[str, Any], place: Place) -> Callable[[], Probe]:
    """A probe of one address, whose name is resolved already: libpq would wait for that."""
    if not place.address and place.host[:1] not in {"", "/", "@"} and not is_address(place.host):
        raise Refused(f'could not translate host name "{place.host}" to address')
    merged = {**params, **only([place])}
    given = {name: value for name, value in merged.items() if value is not None}
    return lambda: probe(driver, given)


class _Answered(Exception):
    def __init__(self, standby: bool | None) -> None:
        super().__init__()
        self.standby = standby


class _InTurn:
    """Several addresses in turn: one that is silent does not keep the next one waiting."""

    def __init__(self, starts: Sequence[Callable[[], Probe]], ends: float) -> None:
        self._left, self._ends = list(starts), ends
        self._open: dict[Probe, tuple[int, bool]] = {}
        self._errors: list[Refused] = []

    def answer(self) -> Answer:
        """The first one, or that nothing came.

        Raises:
            Refused: all have refused.
        """
        try:
            self._run()
        except _Answered as found:
            return Answer(True, standby=found.standby)
        finally:
            for one in self._open:
                one.close()
        if self._open or self._left or not self._errors:
            return _SILENT
        raise self._errors[-1]

    def _run(self) -> None:
        due = -math.inf
        while (now := monotonic()) < self._ends and (self._left or self._open):
            if self._left and (now >= due or not self._open):
                one = self._left.pop(0)()
                # Each has its share of what is left; what answers slowly is not lost by that.
                due = now + (self._ends - now) / (len(self._left) + 1)
                self._step(one)
            else:
                for one in self._ready(min(self._ends, due if self._left else math.inf) - now):
                    self._step(one)

    def _step(self, one: Probe) -> None:
        self._open.pop(one, None)
        try:
            self._open[one] = next(one)
        except StopIteration as done:
            raise _Answered(done.value) from None
        except Refused as error:
            self._errors.append(error)
            # Each further login counts towards the account's lockout.
            if _rule(error) == WRONG_PASSWORD:
                raise

    def _ready(self, seconds: float) -> list[Probe]:
        poller = select.poll()
        by_fd = {fd: one for one, (fd, _) in self._open.items()}
        for fd, writable in self._open.values():
            poller.register(fd, select.POLLOUT if writable else select.POLLIN)
        return [by_fd[fd] for fd, _ in poller.poll(max(0.0, seconds) * 1000)]


def _rule(error: Refused) -> str:
    failed = Failure(Phase.CONNECT, None, "OperationalError", None, None, str(error))
    return judge(failed).rule
