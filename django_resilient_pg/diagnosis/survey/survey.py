"""Everything that is known of one alias, for the findings to judge; ``gathering`` gathers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from ...conf.options import Options
from ...facts import Facts, Path, SocketOptions
from ...policy.limits import Limit, Limits
from ...providers import Provider
from ..path.client_certificates import ClientCertificate
from ..path.greetings import Answer
from ..path.handshakes import TlsFacts
from ..path.poolers import Pooler
from ..path.server import Activity, ServerSide
from ..path.stages import UNWALKED, Stage, Walk
from ..settings.project import KEEPALIVES, Project, keepalives_expected
from ..settings.target import Target

_LOOPBACK: Final = ("127.", "::1")


class Measured(NamedTuple):
    """What ``--probe-idle`` has found.

    Attributes:
        limit: the idle time that is good for certain.
        died: seconds after which connections are dead.
        keepalives: the parameters that prevent it, ``{}`` if none do.
    """

    limit: Limit
    died: float
    keepalives: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of one alias. Times are in seconds.

    Attributes:
        project: the settings.
        target: where it connects.
        asked: the keepalive parameters that libpq gets.
        kernel: this machine's own keepalive settings.
        options: of the engine; its defaults for Django's own engine.
        refused: why Django or the engine refuses the settings, "" if it does not.
        driver: name and version.
        libpq: its version, as 180000.
        walk: the connection stages; without any, nothing was connected to.
        limits: how long connections may live and stay idle.
        server: what the session told.
        pooler: if there is one.
        measured: the idle timeout, if it was measured and there is one.
        client: the certificate that this side presents, if it has one.
        activity: what the application's sessions do; ``None``: the server does not tell.
        large: whether large packets get through; ``None``: not checked.
        now: when this was.
    """

    alias: str
    project: Project
    target: Target
    asked: Mapping[str, int | None]
    kernel: SocketOptions
    options: Options
    refused: str
    driver: str
    libpq: int
    walk: Walk = UNWALKED
    limits: Limits | None = None
    server: ServerSide | None = None
    pooler: Pooler | None = None
    measured: Measured | None = None
    client: ClientCertificate | None = None
    activity: Activity | None = None
    large: bool | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def facts(self) -> Facts | None:
        """What the engine would act on; ``None`` without a session."""
        return self.walk.facts

    @property
    def failed(self) -> Stage | None:
        """The stage that failed."""
        return self.walk.failed

    @property
    def shaken(self) -> TlsFacts | None:
        """The TLS handshake, if there was one."""
        tls = self.walk.tls
        return tls if tls is not None and tls.answer is Answer.TLS else None

    @property
    def provider(self) -> Provider | None:
        """Who runs the server, if it was recognised."""
        return self.facts.provider if self.facts is not None else None

    @property
    def psycopg3(self) -> bool:
        """Whether the driver is psycopg 3, not psycopg2."""
        return self.driver.startswith("psycopg ")

    @property
    def network(self) -> bool:
        """Whether the session leaves this machine."""
        link = self.facts.socket if self.facts is not None else None
        if link is None or link.local is None or link.peer is None:
            return False
        return link.local[0] != link.peer[0] and not link.peer[0].startswith(_LOOPBACK)

    @property
    def keepalives(self) -> SocketOptions | None:
        """On the session's socket, or as they will be; ``None`` on Unix sockets.

        Nor are there any where libpq refuses the numbers.
        """
        if self.refused or self.target.unix or {*self.target.garbled} & {*KEEPALIVES}:
            return None
        if self.facts is not None and self.facts.socket.unix:
            return None
        real = self.facts.socket.keepalives if self.facts is not None else None
        return real or keepalives_expected(self.asked, self.kernel)

    @property
    def idle_timeout(self) -> Limit | None:
        """The shortest idle timeout known, without any margin."""
        known = []
        if self.limits is not None and self.limits.idle.seconds < float("inf"):
            margin = self.options.idle_margin
            known.append(Limit(self.limits.idle.seconds / margin, self.limits.idle.source))
        if self.pooler is not None and self.pooler.client_idle_timeout:
            seconds = self.pooler.client_idle_timeout
            known.append(Limit(seconds, f"client_idle_timeout of the pooler ({seconds:g} s)"))
        if self.measured is not None and not self.measured.keepalives:
            known.append(self.measured.limit)
        return min(known, key=lambda limit: limit.seconds, default=None)

    @property
    def tls_version(self) -> str:
        """Of the session's own leg, "" without TLS or if not known."""
        return self._agreed("tls_version", self.walk.tls.version if self.walk.tls else None)

    @property
    def cipher(self) -> str:
        """As :attr:`tls_version`."""
        return self._agreed("cipher", self.walk.tls.cipher if self.walk.tls else None)

    def _agreed(self, name: str, seen: str | None) -> str:
        """What this end of the session says, the other end (but for a pooler's), the handshake."""
        if self.facts is None or not self.facts.socket.tls:
            return ""
        theirs = None if self.facts.path is Path.POOLER else self.server
        own: str | None = getattr(self.facts.socket, name)
        return own or getattr(theirs, name, None) or seen or ""
