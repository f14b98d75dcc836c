"""An attempt to connect in a thread of its own, which can be left under way."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

#: Told how an attempt ended that was left: with an error, or with ``None``, connected.
Outcome = Callable[[BaseException | None], None]


def left(error: BaseException | None) -> Attempt | None:
    """The attempt that was left with this error of the driver's, if any: it is still under way."""
    found = getattr(error, "left", None)
    return found if isinstance(found, Attempt) else None


class Attempt:
    """An attempt in a thread of its own, unless none can be started (at the interpreter's end)."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._left = False
        self._made: Any = None
        self._error: BaseException | None = None
        self._outcome: Outcome | None = None
        self._ended: Callable[[Attempt], object] | None = None

    def ends_within(self, seconds: float) -> bool:
        """Make it; whether it has ended in time. Otherwise it is left."""
        self.start()
        try:
            self._over.wait(seconds)
        except BaseException:  # of a signal handler
            self.give_way()
            raise
        return not self._leave()

    def start(self, ended: Callable[[Attempt], object] | None = None) -> None:
        """Begin it; ``ended`` is told when it is over, in its thread."""
        self._ended = ended
        run = contextvars.copy_context().run
        thread = threading.Thread(target=run, args=(self._run,), name="connecting", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._run()

    def give_way(self) -> None:
        """Leave it: nobody takes what it connects to, or has connected to."""
        if not self._leave():
            self._close()

    def _leave(self) -> bool:
        with self._lock:
            self._left = not self._over.is_set()
            return self._left

    def result(self) -> Any:
        """The connection, or its error."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._made

    def _run(self) -> None:
        try:
            self._made = self._connect()
        except BaseException as error:
            self._error = error
        with self._lock:
            self._over.set()
            outcome = self._outcome
        if self._ended is not None:
            self._ended(self)
        if self._left:
            self._close()
            if outcome is not None:
                outcome(self._error)

    def _close(self) -> None:
        if self._made is not None:
            self._made.close()

    def then(self, outcome: Outcome) -> None:
        """Have somebody told how it ends; in its thread, or now if it has ended by now."""
        with self._lock:
            self._outcome = outcome
            if not self._over.is_set():
                return
        outcome(self._error)
