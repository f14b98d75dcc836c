"""The server's certificate: what refuses it today, and what will.

Sources: libpq manual, "SSL Support"; X509_V_ERR codes of OpenSSL.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from ..path.certificates import EXPIRED, chain_expired, days_left, validity
from ..path.handshakes import TlsFacts
from ..settings.target import MODES, SYSTEM
from ..survey.survey import Survey
from .base import Found, rule

#: Days in which there is time to renew.
EXPIRES_SOON: Final = 30
#: OpenSSL's codes for a chain that ends at an unknown CA.
UNTRUSTED: Final = {2, 18, 19, 20, 21, 24, 27}
#: The modes that check the certificate in any case.
CHECKING: Final = MODES[-2:]
_SELF_SIGNED: Final = {18, 19}
_REISSUE: Final = (
    "Reissue it, and replace certificate and key together (OPTIONS sslcert and sslkey)."
)
_RENEW: Final = "Renew the certificate on the server, then reload it (SELECT pg_reload_conf())."


def _refused(survey: Survey) -> TlsFacts | None:
    """The handshake, if no session came about because of it.

    libpq checks the certificate under verify-ca and verify-full, and under any mode with TLS if it
    finds a CA file.
    """
    mode, failed = survey.target.sslmode, survey.failed
    if failed is None or failed.name != "TLS" or survey.walk.retryable:
        return None
    checked = mode in CHECKING or (mode != "disable" and survey.target.root_file)
    return survey.shaken if checked else None


def unchecked(survey: Survey) -> TlsFacts | None:
    """The handshake, if there is a session, and what is wrong with the certificate matters.

    On this machine nobody is in between; there it matters to those who ask for TLS.
    """
    matters = survey.network or survey.target.needs_tls
    return survey.shaken if survey.facts is not None and matters else None


def _expiry(shake: TlsFacts | None, now: datetime, consequence: str) -> Found | None:
    """What has expired, if anything has, and what to renew."""
    own = shake.certificate if shake is not None else None
    over = own is not None and days_left(own, now) < 0
    if shake is None or not (over or shake.verify_code == EXPIRED):
        return None
    when = f" on {own.not_after:%Y-%m-%d}" if own is not None else ""
    what, renew = f"The server's certificate expired{when}", _RENEW
    if own is not None and chain_expired(shake.verify_code, own, now):
        what = f'The CA "{own.issuer}" of the server\'s certificate, or a CA above it, has '
        what += f"expired (the certificate itself is valid until {own.not_after:%Y-%m-%d})"
        renew = "Renew the CA's certificate and name the new file in sslrootcert."
    return Found(what + consequence, renew, seen(shake))


def seen(shake: TlsFacts) -> str:
    """What a finding was seen by."""
    own = f": {shake.certificate.subject}" if shake.certificate is not None else ""
    said = f" OpenSSL says: {shake.verify_error}." if shake.verify_error else ""
    return f"Read from a TLS handshake{own}.{said}"


@rule("E005", "The server's certificate has expired", connects=True)
def expired(survey: Survey) -> Found | None:
    """By its own dates, or by OpenSSL's verdict."""
    consequence = f', and sslmode "{survey.target.sslmode}" refuses it.'
    return _expiry(_refused(survey), survey.now, consequence)


@rule("E006", "The certificate is for another host", connects=True)
def wrong_name(survey: Survey) -> Found | None:
    """verify-full refuses it."""
    full = survey.target.sslmode == MODES[-1]
    return _of_another(_refused(survey) if full else None, "verify-full refuses it.")


def _of_another(shake: TlsFacts | None, consequence: str) -> Found | None:
    if shake is None or shake.hostname_matches is not False or not shake.server_name:
        return None
    own = shake.certificate.names if shake.certificate is not None else ()
    names = ", ".join(own) or "no name"
    return Found(
        f'The server\'s certificate is not for "{shake.server_name}", but for {names}: '
        f"{consequence}",
        "Connect by a name in the certificate, or issue one with this name in it.",
        seen(shake),
    )


@rule("E007", "The certificate's CA is not trusted", connects=True)
def untrusted(survey: Survey) -> Found | None:
    """verify-ca and verify-full refuse it, and every mode if there is a CA file."""
    shake = _refused(survey)
    if shake is None or shake.verify_code not in UNTRUSTED:
        return None
    who = f' ("{shake.certificate.issuer}")' if shake.certificate is not None else ""
    place = "the system" if shake.trust == SYSTEM else shake.trust
    return Found(
        f"The CA of the server's certificate{who} is not in {place}.",
        "Get the CA's certificate from the server's operator, and name its file in "
        'OPTIONS["sslrootcert"].',
        seen(shake),
    )


@rule("E011", "The client's certificate cannot be used", connects=True)
def client_refused(survey: Survey) -> Found | None:
    """libpq refuses a key of another certificate, the server one that has expired."""
    own, failed = survey.client, survey.failed
    if own is None or failed is None:
        return None
    files = f"{own.path} and {own.key_path}."
    if own.other_key:
        return Found(
            "The client's private key does not belong to its certificate: libpq does not connect.",
            f"Replace both together: {files}",
            f"Read from {files}",
        )
    asked = failed.name in {"TLS", "authentication"} and not survey.walk.retryable
    if own.certificate is None or not asked or own.certificate.valid_at(survey.now):
        return None
    until = validity(own.certificate, survey.now)
    return Found(f"The client's certificate {until}.", _REISSUE, f"Read from {files}")


@rule("W119", "The client's certificate expires soon or was not checked", connects=True)
def client_expiring(survey: Survey) -> Found | None:
    """A server that asks for it refuses the login from that second on."""
    own = survey.client
    if own is None or own.other_key or client_refused(survey) is not None:
        return None
    if own.certificate is None:
        return Found(
            f"The client's certificate was not checked: {own.problem.rstrip('.')}.",
            "Check both files, and that this account may read them.",
            f"Read from {own.path} and {own.key_path}.",
        )
    if days_left(own.certificate, survey.now) >= EXPIRES_SOON:
        return None
    until = validity(own.certificate, survey.now)
    return Found(f"The client's certificate {until}.", _REISSUE, f"Read from {own.path}.")


@rule("W118", "An expired certificate that is not verified", connects=True)
def expired_unchecked(survey: Survey) -> Found | None:
    """The day somebody sets verify-full, nothing connects any more."""
    mode = survey.target.sslmode
    consequence = f'; sslmode "{mode}" does not verify it, stricter modes will refuse it.'
    return _expiry(unchecked(survey), survey.now, consequence)


@rule("W114", "The server's certificate expires soon", connects=True)
def expiring(survey: Survey) -> Found | None:
    """Within :data:`EXPIRES_SOON` days."""
    shake = survey.shaken
    own = shake.certificate if shake is not None else None
    if shake is None or own is None or not 0 <= days_left(own, survey.now) < EXPIRES_SOON:
        return None
    return Found(f"The server's certificate {validity(own, survey.now)}.", _RENEW, seen(shake))


@rule("W120", "The server's certificate was not checked", connects=True)
def not_checked(survey: Survey) -> Found | None:
    """Its dates and its names could be wrong."""
    facts, shake = survey.facts, survey.walk.tls
    matters = survey.network or survey.target.needs_tls
    if facts is None or not facts.socket.tls or not matters:
        return None
    if shake is None or not shake.version:
        why = "the TLS handshake of this check failed, although the driver's succeeds"
    elif shake.certificate is None:
        why = shake.certificate_note.rstrip(".") or "it could not be read"
    elif shake.chain_verified is None:
        why = shake.verify_error.rstrip(".") or "no CA file could be read"
    else:
        return None
    return Found(
        f"The server's certificate was not checked: {why}.",
        "Check it by hand: openssl s_client -starttls postgres -connect HOST:PORT.",
        "The session uses TLS.",
    )


@rule("W115", "The certificate does not name the host", connects=True)
def other_name(survey: Survey) -> Found | None:
    """The session works, verify-full would not."""
    return _of_another(unchecked(survey), "verify-full is not possible.")


@rule("W116", "The certificate is self-signed", connects=True)
def self_signed(survey: Survey) -> Found | None:
    """No CA issued it, and it is not itself trusted."""
    shake = unchecked(survey)
    if shake is None or shake.chain_verified:
        return None
    own = shake.certificate
    if not (own.self_signed if own is not None else shake.verify_code in _SELF_SIGNED):
        return None
    return Found(
        "The server's certificate is self-signed: clients cannot tell it from a forged one.",
        "Issue one by a CA and name the CA's file in sslrootcert, or copy this certificate to "
        "the clients as sslrootcert.",
        seen(shake),
    )
