"""TLS: whether it is in use, how much it proves, and how long the certificate lasts.

Sources: libpq manual, "SSL Support"; X509_V_ERR codes of OpenSSL; RFC 8996 (TLS below 1.2).
"""

from __future__ import annotations

from typing import Final

from ..certificates import days_left
from ..handshakes import Answer, TlsFacts
from ..survey import Survey
from ..target import MODES
from .base import Found, rule

#: Days in which there is time to renew.
EXPIRES_SOON: Final = 30
_EXPIRED: Final = 10
_SELF_SIGNED: Final = {18, 19}
_OLD: Final = {"TLSv1", "TLSv1.1", "SSLv3"}


def _shake(survey: Survey) -> TlsFacts | None:
    found = survey.walk.tls if survey.walk is not None else None
    return found if found is not None and found.answer is Answer.TLS else None


@rule("E005", "The server's certificate has expired", connects=True)
def expired(survey: Survey) -> Found | None:
    """By its own dates, or by OpenSSL's verdict."""
    shake = _shake(survey)
    if shake is None:
        return None
    own = shake.certificate
    if not (shake.verify_code == _EXPIRED if own is None else days_left(own, survey.now) < 0):
        return None
    when = f" on {own.not_after:%Y-%m-%d}" if own is not None else ""
    return Found(
        f"The server's certificate expired{when}: clients that verify it cannot connect.",
        "Renew the certificate on the server, then reload it (SELECT pg_reload_conf()).",
        f"Read from a TLS handshake: {own.subject if own else shake.verify_error}.",
    )


@rule("W114", "The server's certificate expires soon", connects=True)
def expiring(survey: Survey) -> Found | None:
    """Within :data:`EXPIRES_SOON` days."""
    shake = _shake(survey)
    own = shake.certificate if shake is not None else None
    if own is None or not 0 <= days_left(own, survey.now) < EXPIRES_SOON:
        return None
    days = int(days_left(own, survey.now))
    return Found(
        f"The server's certificate expires in {days} days, on {own.not_after:%Y-%m-%d}.",
        "Renew the certificate on the server, then reload it (SELECT pg_reload_conf()).",
        f"Read from a TLS handshake: {own.subject}.",
    )


@rule("W115", "The certificate does not name the host", connects=True)
def other_name(survey: Survey) -> Found | None:
    """verify-full cannot succeed."""
    shake = _shake(survey)
    if shake is None or shake.hostname_matches is not False or not shake.server_name:
        return None
    names = ", ".join(shake.certificate.names) if shake.certificate is not None else "no name"
    return Found(
        f'The server\'s certificate is not for "{shake.server_name}", but for {names}.',
        "Connect by a name in the certificate, or issue one with this name in it.",
        "Read from a TLS handshake.",
    )


@rule("W116", "The certificate is self-signed", connects=True)
def self_signed(survey: Survey) -> Found | None:
    """No authority vouches for it, and it is not itself trusted."""
    shake = _shake(survey)
    if shake is None or shake.chain_verified:
        return None
    own = shake.certificate
    if not (own.self_signed if own is not None else shake.verify_code in _SELF_SIGNED):
        return None
    return Found(
        "The server's certificate is self-signed: nobody can tell it from an impostor's.",
        "Issue one by an authority and set sslrootcert to its certificate, or copy this one to "
        "the clients as sslrootcert.",
        f"Read from a TLS handshake: {shake.verify_error or 'issuer and subject are the same'}.",
    )


@rule("W111", "No TLS over a network", connects=True)
def in_clear(survey: Survey) -> Found | None:
    """Passwords' proofs, statements and rows can be read and changed on the way."""
    facts = survey.facts
    if facts is None or not survey.network or facts.socket.tls is not False:
        return None
    return Found(
        "The session is not encrypted, and it leaves this machine.",
        'Set OPTIONS["sslmode"] to "verify-full" and switch TLS on in the server.',
        f"The session goes from {facts.socket.local} to {facts.socket.peer} without TLS.",
        {"OPTIONS": {"sslmode": "verify-full"}},
    )


@rule("W112", "sslmode is weaker than the server allows", connects=True)
def weak_mode(survey: Survey) -> Found | None:
    """Below "require" an attacker who answers first decides."""
    mode = survey.target.sslmode
    if not survey.network or _shake(survey) is None or survey.target.needs_tls:
        return None
    return Found(
        f'sslmode is "{mode}", but the server offers TLS: whoever is in between can switch it off.',
        'Set OPTIONS["sslmode"] to "verify-full"; manage.py checkdbconn --sslmodes tries it.',
        f"sslmode is from {survey.target.source('sslmode')}; the server answered with TLS.",
        {"OPTIONS": {"sslmode": "verify-full"}},
    )


@rule("W113", "verify-full would work but is not used", connects=True)
def could_verify(survey: Survey) -> Found | None:
    """The chain and the name are in order already."""
    shake, mode = _shake(survey), survey.target.sslmode
    if shake is None or not shake.chain_verified or not shake.hostname_matches:
        return None
    if not survey.network or mode == MODES[-1] or not survey.target.needs_tls:
        return None
    root = {} if survey.target.root_file else {"sslrootcert": "system"}
    return Found(
        f'sslmode is "{mode}", although the certificate can be verified in full.',
        'Set OPTIONS["sslmode"] to "verify-full".',
        f"A TLS handshake verified chain and name against {shake.trust}.",
        {"OPTIONS": {"sslmode": "verify-full", **root}},
    )


@rule("W117", "TLS below 1.2", connects=True)
def old_tls(survey: Survey) -> Found | None:
    """In use, or accepted by the server."""
    used = survey.tls_version
    lowest = survey.server.lowest_tls if survey.server is not None else None
    offered = bool(survey.server and survey.server.tls_on) and lowest in _OLD
    if used not in _OLD and not offered:
        return None
    what = f"The session uses {used}" if used in _OLD else f"The server accepts {lowest}"
    return Found(
        f"{what}, which is broken and deprecated (RFC 8996).",
        "Set ssl_min_protocol_version = 'TLSv1.2' in the server's configuration.",
        f"Session: {used or 'no TLS'}; ssl_min_protocol_version of the server: {lowest}.",
    )
