"""``--sslmodes``: which modes connect, whether encrypted, and which one to set.

The driver itself logs in with each mode, from the strongest down, so that a password goes out
unprotected only where nothing better came about. A mode weaker than the one in the settings gets
no password in clear text and no MD5 hash of one: trying it must not be less safe than the
application is. Where a login fails for a reason that no mode changes (a wrong password), the rest
is not tried, lest the account be locked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ...driver.link import Link
from ...facts import socket_view
from ..settings.target import MODES, SYSTEM, Target
from .attempts import Connector, Refusal, Refused, attempt
from .conclusions import Rung, conclude
from .greetings import Answer
from .handshakes import TlsFacts, system_file
from .network import knock, resolve
from .network_stages import shake
from .stages import NAMES, Walk
from .tls_refusals import Cause, explain, sentence

__all__ = ["Ladder", "Rung", "sslmodes"]

TIMEOUT: Final = 5.0
# What is safe only where the server has proved who it is, or the application trusts it anyway.
_GIVEN_AWAY: Final = ("password", "md5")
# Entries of the verdict table that do not say what the server minded.
_VAGUE: Final = {"cut", "closed by the server", "broken stream", "unknown connection error"}


@dataclass(frozen=True, slots=True)
class Ladder:
    """All modes, and what follows.

    Attributes:
        rungs: one per mode, from "disable" to "verify-full"; none over a Unix socket.
        recommended: the mode to set now; ``None``: none is worth setting before the advice in
            ``conclusion`` is followed.
        sslrootcert: to be set with it, "" for what is set already.
        conclusion: which mode to set and why, or what has to change first, in sentences.
        tls: a handshake with the same server, where it could be reached.
    """

    rungs: tuple[Rung, ...]
    recommended: str | None
    sslrootcert: str
    conclusion: str
    tls: TlsFacts | None = None


def sslmodes(
    target: Target, connect: Connector, timeout: float = TIMEOUT, *, tls: TlsFacts | None = None
) -> Ladder:
    """Try all values of ``sslmode``.

    Args:
        target: the alias' own settings.
        connect: logs in.
        timeout: seconds for each mode.
        tls: a handshake with the server (``Walk.tls``), if there was one; else one is made.

    Makes up to six logins, and a seventh where the system's CAs are enough.
    """
    if target.unix:
        text = "libpq does not use TLS over a Unix socket: sslmode changes nothing here."
        return Ladder((), target.sslmode, "", text)
    seen = tls or _handshake(target, connect, timeout)
    climb = _Climb(target, connect, timeout, seen)
    rungs = climb.rungs()
    root = climb.system_root(rungs)
    mode, text = conclude(target, rungs, root)
    return Ladder(rungs, mode, root, text, seen)


def not_tried(walk: Walk) -> Ladder | None:
    """The ladder without rungs, if the way ends before any mode could matter."""
    failed = walk.failed
    if failed is None or NAMES.index(failed.name) > NAMES.index("TLS"):
        return None
    speaks = walk.tls is not None and walk.tls.answer in {Answer.TLS, Answer.PLAIN}
    if failed.name == "TLS" and speaks:
        return None
    text = f"No sslmode was tried: stage {failed.name} fails in every mode."
    return Ladder((), None, "", text, walk.tls)


def _handshake(target: Target, connect: Connector, timeout: float) -> TlsFacts | None:
    """Look at the first address that accepts."""
    for host in target.hosts:
        try:
            knocks = knock(resolve(host, timeout), timeout)
        except (OSError, TimeoutError):
            continue
        for each in knocks:
            if each.accepted and isinstance(each.place.address, tuple):
                return shake(each.place, target, connect.libpq, timeout)
    return None


@dataclass(frozen=True, slots=True)
class _Climb:
    """Attempts with one mode after the other; ``tls``: a handshake with the same server."""

    target: Target
    connect: Connector
    timeout: float
    tls: TlsFacts | None

    def rungs(self) -> tuple[Rung, ...]:
        """From the strongest mode down; returned from the weakest up."""
        rungs: list[Rung] = []
        for mode in reversed(MODES):
            if any(each.stops for each in rungs):
                text = "Not tried: a stronger mode failed for a reason that no mode changes."
                rungs.append(Rung(mode, None, None, text))
            else:
                rungs.append(self._remarked(self._try(mode), rungs))
        return tuple(reversed(rungs))

    def _try(self, mode: str) -> Rung:
        changes = self._changes(mode)
        if changes.get("require_auth") == "":
            allowed = self.target.require_auth
            text = f'Not tried: require_auth "{allowed}" allows nothing that is safe here.'
            return Rung(mode, None, None, text)
        try:
            link, seconds = self._attempt(changes)
        except Refused as error:
            return self._refused(mode, error.refusal)
        try:
            return Rung(mode, True, bool(socket_view(link).tls), seconds=seconds)
        finally:
            link.close()

    def _attempt(self, changes: dict[str, object]) -> tuple[Link, float]:
        return attempt(self.connect, changes, self.timeout, len(self.target.hosts))

    def _changes(self, mode: str) -> dict[str, object]:
        """GSSAPI encryption would win over TLS, and hide what TLS does."""
        changes: dict[str, object] = {"sslmode": mode, "gssencmode": "disable"}
        if MODES.index(mode) < MODES.index(self.target.sslmode):
            changes["require_auth"] = _without_passwords(self.target.require_auth)
        return changes

    def _refused(self, mode: str, refusal: Refusal) -> Rung:
        if refusal.local and "require_auth" in refusal.text:
            text = "This libpq (before 16) might send the password, or its MD5 hash."
            return Rung(mode, None, None, text)
        found = explain(refusal.text, self.target, self.tls)
        if found is None:
            # A closed connection, or unknown words, may well be about encryption.
            cause = Cause.OTHER if refusal.rule in _VAGUE and not refusal.local else None
            return Rung(mode, False, None, sentence(refusal.text), refusal.seconds, cause)
        connects = None if found.cause is Cause.CLEAR_TEXT else False
        why, seconds = found.sentence, refusal.seconds
        return Rung(mode, connects, None, why, seconds, found.cause, found.advice)

    def _remarked(self, rung: Rung, stronger: Sequence[Rung]) -> Rung:
        """Say why a session is not encrypted although the server could."""
        if rung.encrypted is not False or self.tls is None or self.tls.answer is Answer.PLAIN:
            return rung
        if rung.mode == "allow":
            return replace(rung, why_not="Not encrypted: TLS is used only if the server insists.")
        if rung.mode == "prefer":
            reason = next((each.why_not for each in stronger if each.mode == "require"), "")
            return replace(rung, why_not=f"Not encrypted, because TLS fails: {reason}")
        return rung

    def system_root(self, rungs: Sequence[Rung]) -> str:
        """The value of ``sslrootcert`` if the CAs of the system are what is missing.

        Their file; the word "system", which libpq knows since 16, where there is none.
        """
        tls = self.tls
        if tls is None or tls.trust != SYSTEM or not tls.chain_verified:
            return ""
        if tls.hostname_matches is False or rungs[-1].cause is not Cause.NO_ROOT:
            return ""
        root = system_file() or SYSTEM
        try:
            link, _ = self._attempt({**self._changes(MODES[-1]), "sslrootcert": root})
        except Refused:
            return ""
        link.close()
        return root


def _without_passwords(allowed: str) -> str:
    """``require_auth`` without what gives a password, or its MD5 hash, to whoever asks for it.

    "" if nothing else is allowed. libpq takes either what is allowed or, after "!", what is not.
    """
    methods = [each.strip() for each in allowed.split(",") if each.strip()]
    if methods and not methods[0].startswith("!"):
        return ",".join(each for each in methods if each not in _GIVEN_AWAY)
    return ",".join(dict.fromkeys([*methods, *(f"!{each}" for each in _GIVEN_AWAY)]))
