"""How long does the path let a connection idle? Measured: sessions are left alone, then used.

Two series side by side, with TCP keepalives and without: routers and firewalls count a keepalive
as life, proxies and poolers do not. Nothing is asked of the server but these sessions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..path.attempts import Refused
from .series import Found, Series
from .sessions import NO_SERVER, PATIENCE, Session
from .shares import Share, half

#: Sessions of the two series: the one without keepalives tells the timeout, the other one needs
#: to tell no more than whether they help.
WITHOUT: Final = 12
WITH: Final = 4
#: Just above AWS' network load balancers and NAT gateways, the most common timeouts (350 s).
DEFAULT: Final = 400.0
LEAST: Final = 5.0
MOST: Final = 86_400.0

# Between two looks, in seconds: the least, the most, and the part of the time looked for.
_TICK: Final = (0.1, 0.5, 1 / 2000)
_BEAT: Final = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the probe is.

    Attributes:
        seconds: since it began.
        until: when it ends as far as is known, in seconds since it began.
        alive: sessions that are being looked after.
        told: news, a sentence part; "" if there is none.
    """

    seconds: float
    until: float
    alive: int
    told: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the probe found; :mod:`.idleness` puts it into words and settings.

    Attributes:
        asked: seconds up to which to look for a timeout.
        seconds: it took.
        off, on: what the sessions without and with keepalives tell.
        interrupted: whether Ctrl-C interrupted it.
        refusal: why a session was refused, "" if none was.
        spared: why there were to be fewer than usual, "" if there were not.
    """

    asked: float
    seconds: float
    off: Found
    on: Found
    interrupted: bool = False
    refusal: str = ""
    spared: str = ""

    @property
    def sessions(self) -> int:
        """How many sessions were opened."""
        return self.off.sessions + self.on.sessions


def probe_idle(
    connect: Callable[[bool], Session],
    seconds: float = DEFAULT,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    report: Callable[[Progress], object] = lambda progress: None,
    patience: float = PATIENCE,
    share: Share | None = None,
) -> ProbeResult:
    """Find the time after which idle connections die here.

    Takes ``seconds`` if none does; otherwise, at most, thrice the time found more than that (and a
    few times ``patience``).
    Ctrl-C ends it: the result has what is known by then.

    Args:
        connect: opens a session, with or without keepalives (:func:`.endings.opener`); called 16
            times at most.
        seconds: the longest time to look for, from 5 to 86400.
        clock, sleep: for tests.
        report: called once a second, and when there is news.
        patience: seconds to wait for the answer to a round trip before it counts as lost.
        share: how many sessions there may be, if fewer than 16.

    Raises:
        Refused: not even one session came about.
        ValueError: ``seconds`` is out of range.
    """
    if not LEAST <= seconds <= MOST:
        raise ValueError(f"{seconds:g} s must be between {LEAST:g} and {MOST:g} s.")
    share = share if share is not None and share.kept < WITHOUT + WITH else None
    series = [Series(on, clock, patience) for on in (False, True)]
    probe = _Probe(connect, seconds, clock, report, share, series, clock())
    least, most, part = _TICK
    tick = max(least, min(most, part * seconds))
    try:
        return probe.result(interrupted=_interrupted(probe, lambda: sleep(tick)))
    finally:
        probe.close()


def _interrupted(probe: _Probe, wait: Callable[[], object]) -> bool:
    """Go on until there is nothing more to wait for, or until Ctrl-C."""
    try:
        probe.open()
        while probe.step():
            wait()
    except KeyboardInterrupt:
        return True
    return False


@dataclass(slots=True)
class _Probe:
    _connect: Callable[[bool], Session]
    _seconds: float
    _clock: Callable[[], float]
    _report: Callable[[Progress], object]
    _share: Share | None
    _series: list[Series]
    _began: float = 0.0
    _beat: float = -math.inf
    _refusal: str = ""
    _spared: str = ""

    def open(self) -> None:
        """Open the sessions of both series by turns, as many as the server gives."""
        most = self._share.tried if self._share is not None else WITHOUT + WITH
        for number in range(max(WITHOUT, WITH)):
            for series, count in zip(self._series, (WITHOUT, WITH), strict=True):
                if number < count and self._open < most and not self._refusal:
                    self._open_one(series)
        if self._share is not None and not self._refusal:
            self._spared = self._share.why
            self._keep(self._share.kept)
        for series in self._series:
            series.begin(self._seconds)

    @property
    def _open(self) -> int:
        return sum(series.alive for series in self._series)

    def _open_one(self, series: Series) -> None:
        try:
            series.add(self._connect(series.keepalives))
        except Refused as error:
            if not self._open:
                raise
            self._refusal = str(error)
            if error.refusal.rule == NO_SERVER:
                self._refusal += f": the pooler gives {self._open} servers, half are left to others"
                self._keep(half(self._open))

    def _keep(self, count: int) -> None:
        """Give sessions back, of the longer series first."""
        while self._open > count:
            max(self._series, key=lambda series: series.alive).spare()

    def step(self) -> bool:
        """Do what there is to do now; return whether there will be more."""
        news = [
            f"{'with' if series.keepalives else 'without'} keepalives: {told}"
            for series in self._series
            for told in ([] if series.over else series.tend())
        ]
        for told in news:
            self._tell(told)
        if self._clock() - self._beat >= _BEAT:
            self._tell()
        return not all(series.over for series in self._series)

    def _tell(self, told: str = "") -> None:
        now = self._beat = self._clock()
        until = max(now, *(series.until for series in self._series)) - self._began
        self._report(Progress(now - self._began, until, self._open, told))

    def result(self, *, interrupted: bool) -> ProbeResult:
        """What is known."""
        off, on = (series.found() for series in self._series)
        spent = self._clock() - self._began
        return ProbeResult(self._seconds, spent, off, on, interrupted, self._refusal, self._spared)

    def close(self) -> None:
        """Close what is open."""
        for series in self._series:
            series.close()
