"""The connection stages: which one fails, why, and what to do about it.

Each stage is bounded in time. The driver's own login decides whether a connection is possible; the
checks before it (names, sockets, a TLS handshake) show where and why it is not.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ...driver.link import Link
from ...facts import Facts
from ...policy.plain import plain
from ..settings.target import Target
from . import login_stages, network_stages
from .attempts import Connector
from .greetings import Answer
from .handshakes import TlsFacts
from .network import Knock
from .visit import NO_POSTGRESQL, NotNeeded, Stopped, Trip

TIMEOUT: Final = 5.0
#: Values of ``sslmode`` with which libpq begins without TLS.
PLAIN_FIRST: Final = ("disable", "allow")


class Outcome(enum.Enum):
    """What became of a stage."""

    OK = "ok"
    FAILED = "failed"
    NOT_NEEDED = "not needed"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        name: one of :data:`NAMES`.
        outcome: what became of it.
        seconds: it took; ``None``: not run, or not measured by itself.
        detail: a sentence on what was found.
        advice: what to do, "" unless it failed.
    """

    name: str
    outcome: Outcome
    seconds: float | None = None
    detail: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Walk:
    """All stages, in order, up to the first that fails; the others were not run.

    Attributes:
        target: what was walked to.
        stages: as many as there are :data:`NAMES`.
        retryable: whether the failure is transient; ``True`` if nothing failed.
        knocks: what each address did.
        tls: the handshake, ``None`` if the walk did not come so far.
        connect_seconds: the driver's whole login, which includes another TCP and TLS hand-shake.
        facts: of the session, if there was one.
    """

    target: Target
    stages: tuple[Stage, ...]
    retryable: bool = True
    knocks: tuple[Knock, ...] = ()
    tls: TlsFacts | None = None
    connect_seconds: float | None = None
    facts: Facts | None = None

    @property
    def failed(self) -> Stage | None:
        """The stage that failed."""
        return next((each for each in self.stages if each.outcome is Outcome.FAILED), None)

    @property
    def not_run(self) -> tuple[str, ...]:
        """The names of the stages that were not run."""
        return tuple(each.name for each in self.stages if each.outcome is Outcome.NOT_RUN)

    @property
    def exit_status(self) -> int:
        """0: a session came about; 1: not now; 3: not before the configuration is changed."""
        if self.failed is None:
            return 0
        return 1 if self.retryable else 3


#: Nothing was connected to.
UNWALKED: Final = Walk(Target("", (), "", ""), ())

STEPS: Final[dict[str, Callable[[Trip], str]]] = {
    "settings": network_stages.settings,
    "DNS": network_stages.dns,
    "TCP": network_stages.tcp,
    "TLS": network_stages.tls,
    "authentication": login_stages.login,
    "database": login_stages.database,
    "role": login_stages.role,
    "settings of the server": login_stages.server_settings,
}
NAMES: Final = tuple(STEPS)


def walk(
    target: Target,
    connect: Connector,
    timeout: float = TIMEOUT,
    *,
    primary: bool = False,
    assume_role: str = "",
    examine: Callable[[Link], object] | None = None,
) -> Walk:
    """Go from the settings to the first statement, and say where the way ends.

    Args:
        target: where to.
        connect: logs in.
        timeout: seconds for each stage.
        primary: whether a standby is a failure (the stage "role").
        assume_role: the role that Django takes after the login, which costs a round trip more.
        examine: called with the open session before it is closed, if there is one.

    Three connections are made: one that sends nothing, one for TLS (two if its certificate is
    refused), one that logs in. After that, one round trip. Where the one for TLS fails, the login
    is tried all the same: what works for the driver is no error.
    """
    trip = Trip(target, connect, timeout, primary, assume_role)
    try:
        found = _run(trip)
        if examine is not None and trip.link is not None and found.failed is None:
            examine(trip.link)
        return found
    finally:
        if trip.link is not None:
            trip.link.close()


def refused_settings(target: Target, error: str) -> Walk:
    """The walk that ends where it begins: Django or the engine refuses the settings."""
    rest = tuple(Stage(name, Outcome.NOT_RUN) for name in NAMES[1:])
    advice = "Correct this entry of DATABASES."
    return Walk(target, (Stage(NAMES[0], Outcome.FAILED, None, error, advice), *rest), False)


def _run(trip: Trip) -> Walk:
    done: dict[str, Stage] = {}
    retryable = True
    doubt = None
    for name in NAMES:
        began = time.monotonic()
        try:
            done[name] = _stage(trip, name)
        except Stopped as stop:
            spent = time.monotonic() - began
            if name == "TLS" and _login_decides(trip):
                doubt = stop
                done[name] = Stage(name, Outcome.OK, spent, f"{stop.detail} The driver connects.")
                continue
            if doubt is not None and trip.link is None and not stop.answered:
                # The handshake shows more of what listens there than libpq says.
                name, spent, stop = "TLS", done["TLS"].seconds or 0.0, doubt
            done = _with_failure(done, name, spent, stop)
            retryable = stop.retryable
            break
    shaken = trip.tls is not None and trip.tls.answer is Answer.TLS
    if doubt is not None and trip.link is not None and not shaken:
        trip.tls = None  # of another conversation than the driver's
    stages = tuple(done.get(name) or Stage(name, Outcome.NOT_RUN) for name in NAMES)
    # A failure may belong to an earlier stage: those after it count as not run and report nothing.
    tls = trip.tls if "TLS" in done else None
    knocks = trip.knocks if "TCP" in done else ()
    return Walk(trip.target, stages, retryable, knocks, tls, trip.connect_seconds, trip.facts)


def _login_decides(trip: Trip) -> bool:
    """Whether the driver may connect although the TLS handshake of the check failed.

    It may in another way (no TLS, another host, a younger OpenSSL), or because the
    next connection comes to another server. Where nobody answers it would only wait once more,
    unless it asks for something other than TLS first.
    """
    silent = trip.tls is not None and trip.tls.answer is Answer.SILENT
    return not silent or trip.target.sslmode in PLAIN_FIRST


def _stage(trip: Trip, name: str) -> Stage:
    began = time.monotonic()
    try:
        detail, outcome = STEPS[name](trip), Outcome.OK
    except NotNeeded as reason:
        detail, outcome = str(reason), Outcome.NOT_NEEDED
    except Stopped:
        raise
    except Exception as error:  # whatever a driver makes of an answer that makes no sense
        raise _malformed(trip, name, error) from None
    return Stage(name, outcome, trip.seconds.get(name, time.monotonic() - began), detail)


def _malformed(trip: Trip, name: str, error: Exception) -> Stopped:
    said = trip.connect.hide(plain(str(error).partition("\n")[0])).rstrip(".")
    text = f"The answer of the server cannot be read ({type(error).__name__}: {said})."
    return Stopped(text, NO_POSTGRESQL, True, name)


def _with_failure(
    done: dict[str, Stage], running: str, spent: float, stop: Stopped
) -> dict[str, Stage]:
    """Put the failure where it belongs, and take what it shows of the stages before.

    The login may show that an earlier stage fails after all (libpq refuses a certificate), or how
    far it came (the password was right, the database does not exist).
    """
    blamed, took = stop.stage or running, {running: spent}
    known = {
        name: done.get(name) or Stage(name, Outcome.OK, took.get(name), "Passed.")
        for name in NAMES[: NAMES.index(blamed)]
    }
    failed = Stage(blamed, Outcome.FAILED, took.get(blamed), stop.detail, stop.advice)
    return {**known, blamed: failed}
