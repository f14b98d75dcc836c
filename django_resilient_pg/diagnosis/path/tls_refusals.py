"""Why TLS, or the lack of it, was refused: one table of causes, and what to do about each.

libpq says what happened ("certificate verify failed"), the handshake with the same server says
why (expired, another CA, another name). Texts: libpq's ``fe-secure-openssl.c``,
``fe-secure-common.c``, ``fe-connect.c``, ``fe-auth.c``; the server's ``auth.c``; codes: OpenSSL's
X509_V_ERR.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ..settings.target import SYSTEM, Target
from .certificates import EXPIRED, chain_expired
from .greetings import Answer
from .handshakes import TlsFacts


class Cause(enum.Enum):
    """What stood in the way."""

    NO_TLS = "the server offers no TLS"
    NO_ROOT = "no CA file"
    AUTHORITY = "the certificate was issued by an unknown CA"
    EXPIRED = "the certificate has expired"
    NOT_YET_VALID = "the certificate is not valid yet"
    VERIFY = "the certificate is refused"
    HOST_NAME = "the certificate is for another host name"
    CLIENT_CERTIFICATE = "a client certificate is required"
    PRIVATE_KEY = "the client's private key cannot be read"
    ENCRYPTION_REQUIRED = "the server refuses this user without TLS"
    ENCRYPTION_REFUSED = "the server refuses this user over TLS"
    CLEAR_TEXT = "the password would be sent in clear text"
    OPTION = "another option forbids this mode"
    OTHER = "the handshake failed"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A cause, in a sentence, with what to do about it in another."""

    cause: Cause
    sentence: str
    advice: str = ""


# In this order: a message may report an attempt with TLS and one without, and what was wrong with
# TLS says more.
_TEXTS: Final = (
    (Cause.VERIFY, ("certificate verify failed",)),
    (Cause.NO_ROOT, ("does not exist either provide the file", "locate root certificate file")),
    (Cause.HOST_NAME, ("server certificate for", "host name must be specified")),
    (Cause.CLIENT_CERTIFICATE, ("valid client certificate", "alert certificate required")),
    (Cause.PRIVATE_KEY, ("load private key file",)),
    (Cause.NO_TLS, ("does not support ssl",)),
    (Cause.OPTION, ("weak sslmode", "invalid when ssl support is not compiled in")),
    (Cause.CLEAR_TEXT, ("cleartext password", "hashed password")),
    # pg_hba.conf's refusals end in the state of the connection; "SSL off" up to version 13.
    (Cause.ENCRYPTION_REQUIRED, ("no encryption", "ssl off", "requires tls", "is insecure")),
    (Cause.ENCRYPTION_REQUIRED, ("ssl required", "ssl is required")),  # poolers
    (Cause.ENCRYPTION_REFUSED, ("ssl encryption", "ssl on")),
    (Cause.OTHER, ("ssl error", "certificate", "private key")),
)
_QUOTED: Final = re.compile(r'"[^"]*"')
_CODES: Final = {EXPIRED: Cause.EXPIRED, 9: Cause.NOT_YET_VALID} | dict.fromkeys(
    (2, 18, 19, 20, 21, 24, 27), Cause.AUTHORITY
)


def explain(text: str, target: Target, tls: TlsFacts | None) -> Explanation | None:
    """Return why an attempt was refused, as far as TLS goes; None if it has nothing to do with it.

    Args:
        text: what libpq said (``Refusal.text``).
        target: what was connected to.
        tls: a handshake with the same server, for the details.
    """
    lower = _QUOTED.sub('""', text.lower())  # a database may be called "ssl"
    cause = next((cause for cause, parts in _TEXTS if any(part in lower for part in parts)), None)
    if cause is Cause.ENCRYPTION_REQUIRED and tls is not None and tls.answer is Answer.PLAIN:
        return None  # pg_hba.conf has no entry at all: encryption is not what it waits for
    if cause is None:
        return None
    if cause is Cause.VERIFY and tls is not None:
        cause = _CODES.get(tls.verify_code, cause)
    if tls is None or not (cause in _WORDS or cause in _EXPLAINED):
        return Explanation(cause, sentence(text), _ADVICE.get(cause, ""))
    return Explanation(cause, *(_WORDS.get(cause) or _EXPLAINED[cause](target, tls)))


def sentence(text: str) -> str:
    """Make a sentence of what was said."""
    end = "" if text.endswith("?") else "."
    return f"{text[:1].upper()}{text[1:].rstrip('.')}{end}"


def _no_root(target: Target, tls: TlsFacts) -> tuple[str, str]:
    missing = f'sslrootcert names "{target.sslrootcert}", which does not exist.'
    return missing if target.sslrootcert else "No CA file found (sslrootcert).", _get_root(tls)


def _authority(target: Target, tls: TlsFacts) -> tuple[str, str]:
    trusted = "the system" if tls.trust == SYSTEM else f'"{tls.trust}"'
    own = tls.certificate is not None and tls.certificate.self_signed
    what = "is self-signed and not" if own else "is not signed by a CA"
    return f"The server's certificate {what} in {trusted} ({tls.verify_error}).", _get_root(tls)


def _get_root(tls: TlsFacts) -> str:
    who = f' "{tls.certificate.issuer}"' if tls.certificate else ""
    return f"Get the certificate of the CA{who} and name its file in sslrootcert."


def _expired(target: Target, tls: TlsFacts) -> tuple[str, str]:
    if chain_expired(tls.verify_code, tls.certificate, datetime.now(UTC)):
        who = f'"{tls.certificate.issuer}" ' if tls.certificate else ""
        return (
            f"The CA {who}of the server's certificate, or a CA above it, has expired.",
            "Renew the CA's certificate and name the new file in sslrootcert.",
        )
    when = f" on {tls.certificate.not_after:%Y-%m-%d %H:%M} UTC" if tls.certificate else ""
    return f"The server's certificate expired{when}.", "Renew the certificate on the server."


def _not_yet(target: Target, tls: TlsFacts) -> tuple[str, str]:
    when = f" before {tls.certificate.not_before:%Y-%m-%d %H:%M} UTC" if tls.certificate else ""
    return f"The server's certificate is not valid{when}.", "Check the clocks of both machines."


def _verify(target: Target, tls: TlsFacts) -> tuple[str, str]:
    if tls.chain_verified:  # by Python's OpenSSL; a driver's wheel brings its own
        return (
            "libpq refuses the server's certificate, which the OpenSSL of this Python accepts.",
            _get_root(tls),
        )
    why = f" ({tls.verify_error})" if tls.verify_error else ""
    return f"The server's certificate is refused{why}.", "Reissue it."


def _host_name(target: Target, tls: TlsFacts) -> tuple[str, str]:
    name = tls.server_name
    if not name:  # libpq does not compare a certificate with hostaddr
        return (
            'sslmode "verify-full" needs the name of the host, and hostaddr alone is set.',
            "Set HOST to the name in the server's certificate, beside hostaddr.",
        )
    names = tls.certificate.names if tls.certificate else ()
    listed = f" but for {', '.join(names)}" if names else ""
    one = f"Set HOST to {names[0]}, or have" if names else "Have"
    return (
        f'The server\'s certificate is not for "{name}"{listed}.',
        f'{one} the certificate issued for "{name}" too.',
    )


def _client_certificate(target: Target, tls: TlsFacts) -> tuple[str, str]:
    given = f'"{target.sslcert}" was not accepted' if target.sslcert else "none is set"
    return (
        f"The server requires a client certificate, and {given}.",
        "Set OPTIONS sslcert and sslkey to a certificate that the server's ssl_ca_file signed.",
    )


_ADVICE: Final = {
    Cause.OPTION: "Use sslmode verify-full, or remove the other option.",
    Cause.PRIVATE_KEY: "Name a private key in sslkey; if it is encrypted, set"
    ' OPTIONS["sslpassword"] to its passphrase.',
    Cause.OTHER: "Read the server's log, and check the files that the ssl options name.",
}
# Missing in both: what libpq's own words say best.
_WORDS: Final = {
    Cause.NO_TLS: (
        "The server offers no TLS.",
        "Enable TLS on the server (ssl = on, with a certificate).",
    ),
    Cause.ENCRYPTION_REQUIRED: (
        "The server refuses this user without TLS.",
        "Use sslmode require or stronger.",
    ),
    Cause.ENCRYPTION_REFUSED: (
        "The server refuses this user over TLS.",
        "Add a hostssl line for this user, database and address to the server's pg_hba.conf.",
    ),
    Cause.CLEAR_TEXT: (
        "The server asks for the password in clear text or as an MD5 hash: not sent in this mode.",
        "Use scram-sha-256 in the server's pg_hba.conf.",
    ),
}
_EXPLAINED: Final[dict[Cause, Callable[[Target, TlsFacts], tuple[str, str]]]] = {
    Cause.NO_ROOT: _no_root,
    Cause.AUTHORITY: _authority,
    Cause.EXPIRED: _expired,
    Cause.NOT_YET_VALID: _not_yet,
    Cause.VERIFY: _verify,
    Cause.HOST_NAME: _host_name,
    Cause.CLIENT_CERTIFICATE: _client_certificate,
}
