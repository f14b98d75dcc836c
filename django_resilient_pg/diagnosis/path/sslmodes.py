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

from ...facts import socket_view
from ..settings.target import MODES, SYSTEM, Target
from .attempts import Connector, Refusal, Refused, attempt
from .conclusions import Rung, conclude
from .greetings import Answer
from .handshakes import TlsFacts, handshake, names_protocol, system_file
from .network import knock, resolve
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
    target: Target,
    connect: Connector,
    timeout: float = TIMEOUT,
    *,
    tls: TlsFacts | None = None,
) -> Ladder:
    """Try all values of ``sslmode``.

    Args:
        target: the alias' own settings.
        connect: logs in.
        timeout: seconds for each mode.
        tls: a handshake with the server (``Walk.tls``), if there was one; else one is made.

    Makes up to six logins, and a seventh where the system's CAs are enough.
    """
    if target.hosts and all(host.unix for host in target.hosts):
        text = "libpq does not use TLS over a Unix socket: sslmode changes nothing here."
        return Ladder((), target.sslmode, "", text)
    seen = tls or _handshake(target, connect, timeout)
    rungs = _climb(target, connect, timeout, seen)
    root = _system_root(target, connect, timeout, seen, rungs)
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
                address, port = each.place.address[:2]
                return handshake(
                    address,
                    port,
                    host.name,
                    direct=target.direct,
                    timeout=timeout,
                    trust=target.trust,
                    alpn=names_protocol(connect.libpq),
                )
    return None


def _climb(
    target: Target, connect: Connector, timeout: float, tls: TlsFacts | None
) -> tuple[Rung, ...]:
    """From the strongest mode down; returned from the weakest up."""
    rungs: list[Rung] = []
    for mode in reversed(MODES):
        if any(each.stops for each in rungs):
            text = "Not tried: a stronger mode failed for a reason that no mode changes."
            rungs.append(Rung(mode, None, None, text))
        else:
            rungs.append(_remarked(_try(target, connect, timeout, tls, mode), rungs, tls))
    return tuple(reversed(rungs))


def _try(
    target: Target, connect: Connector, timeout: float, tls: TlsFacts | None, mode: str
) -> Rung:
    changes = _changes(target, mode)
    if changes.get("require_auth") == "":
        text = f'Not tried: require_auth "{target.require_auth}" allows nothing that is safe here.'
        return Rung(mode, None, None, text)
    try:
        link, seconds = attempt(connect, changes, timeout, len(target.hosts))
    except Refused as error:
        return _refused(mode, error.refusal, target, tls)
    try:
        return Rung(mode, True, bool(socket_view(link).tls), seconds=seconds)
    finally:
        link.close()


def _changes(target: Target, mode: str) -> dict[str, object]:
    """GSSAPI encryption would win over TLS, and hide what TLS does."""
    changes: dict[str, object] = {"sslmode": mode, "gssencmode": "disable"}
    if _weaker(mode, target):
        changes["require_auth"] = _without_passwords(target.require_auth)
    return changes


def _weaker(mode: str, target: Target) -> bool:
    return MODES.index(mode) < MODES.index(target.sslmode)


def _without_passwords(allowed: str) -> str:
    """``require_auth`` without what gives a password, or its MD5 hash, to whoever asks for it.

    "" if nothing else is allowed. libpq takes either what is allowed or, after "!", what is not.
    """
    methods = [each.strip() for each in allowed.split(",") if each.strip()]
    if methods and not methods[0].startswith("!"):
        return ",".join(each for each in methods if each not in _GIVEN_AWAY)
    return ",".join(dict.fromkeys([*methods, *(f"!{each}" for each in _GIVEN_AWAY)]))


def _refused(mode: str, refusal: Refusal, target: Target, tls: TlsFacts | None) -> Rung:
    if refusal.local and "require_auth" in refusal.text:
        text = "This libpq (before 16) might send the password, or its MD5 hash."
        return Rung(mode, None, None, text)
    found = explain(refusal.text, target, tls)
    if found is None:
        # A closed connection, or unknown words, may well be about encryption.
        cause = Cause.OTHER if refusal.rule in _VAGUE and not refusal.local else None
        return Rung(mode, False, None, sentence(refusal.text), refusal.seconds, cause)
    connects = None if found.cause is Cause.CLEAR_TEXT else False
    return Rung(mode, connects, None, found.sentence, refusal.seconds, found.cause, found.advice)


def _remarked(rung: Rung, stronger: Sequence[Rung], tls: TlsFacts | None) -> Rung:
    """Say why a session is not encrypted although the server could."""
    if rung.encrypted is not False or tls is None or tls.answer is Answer.PLAIN:
        return rung
    if rung.mode == "allow":
        return replace(rung, why_not="Not encrypted: TLS is used only if the server insists.")
    if rung.mode == "prefer":
        reason = next((each.why_not for each in stronger if each.mode == "require"), "")
        return replace(rung, why_not=f"Not encrypted, because TLS fails: {reason}")
    return rung


def _system_root(
    target: Target,
    connect: Connector,
    timeout: float,
    tls: TlsFacts | None,
    rungs: Sequence[Rung],
) -> str:
    """The value of ``sslrootcert`` if the CAs of the system are what is missing.

    Their file; the word "system", which libpq knows since 16, where there is none.
    """
    likely = (
        tls is not None
        and tls.trust == SYSTEM
        and bool(tls.chain_verified)
        and tls.hostname_matches is not False
        and rungs[-1].cause is Cause.NO_ROOT
    )
    if not likely:
        return ""
    root = system_file() or SYSTEM
    try:
        changes = {**_changes(target, MODES[-1]), "sslrootcert": root}
        link, _ = attempt(connect, changes, timeout, len(target.hosts))
    except Refused:
        return ""
    link.close()
    return root
