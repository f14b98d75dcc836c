"""TLS: whether it is in use, and how much it proves.

Sources: libpq manual, "SSL Support", section "Protection Provided in Different Modes"; RFC 8996
(TLS below 1.2).
"""

from __future__ import annotations

import os
from typing import Final

from ...policy.parameters import ENDS_PROCESSES
from ..path.handshakes import TlsFacts, system_file
from ..settings.target import MODES, SYSTEM
from ..survey.survey import Survey
from .base import Found, rule
from .certificates import CHECKING, UNTRUSTED, seen, unchecked

_OLD: Final = {"TLSv1", "TLSv1.1", "SSLv3"}


@rule("I219", "The certificate is not verified", connects=True)
def unverified(survey: Survey) -> Found | None:
    """Encrypted, but with whom?"""
    shake = unchecked(survey)
    own = shake.certificate if shake is not None else None
    if shake is None or shake.chain_verified is not False or (own and own.self_signed):
        return None
    if survey.target.sslmode in CHECKING or shake.verify_code not in UNTRUSTED:
        return None
    return Found(
        f'sslmode "{survey.target.sslmode}" encrypts without verifying the server, and the '
        "certificate's CA is unknown here.",
        'Get the CA\'s certificate, name its file in OPTIONS["sslrootcert"] and set '
        "sslmode to verify-full.",
        seen(shake),
    )


def _strongest(survey: Survey, shake: TlsFacts) -> dict[str, str]:
    """The settings of the strongest mode that works as things are."""
    given = survey.target.root_file or survey.target.sslrootcert == SYSTEM
    file = "" if given else system_file()
    # Without one libpq would look for a file, and there is none.
    if not (shake.chain_verified and shake.hostname_matches and (given or file)):
        return {"sslmode": "require"}
    return {"sslmode": MODES[-1], **({"sslrootcert": file} if file else {})}


def _words(settings: dict[str, str]) -> str:
    return " and ".join(f'OPTIONS["{name}"] to "{value}"' for name, value in settings.items())


@rule("W111", "No TLS over a network", connects=True)
def in_clear(survey: Survey) -> Found | None:
    """Passwords' proofs, statements and rows can be read and changed on the way."""
    facts, shake = survey.facts, survey.shaken
    if facts is None or not survey.network or facts.socket.tls is not False:
        return None
    best = _strongest(survey, shake) if shake is not None else {}
    first = "" if best else "Enable TLS on the server (ssl = on). "
    return Found(
        "The session is not encrypted, and it leaves this machine.",
        f"{first}Set {_words(best or {'sslmode': MODES[-1]})}.",
        f"The session goes from {facts.socket.local} to {facts.socket.peer} without TLS.",
        {"OPTIONS": best} if best else {},
    )


@rule("W112", "sslmode is weaker than the server allows", connects=True)
def weak_mode(survey: Survey) -> Found | None:
    """Below "require" an attacker who answers first decides."""
    mode, shake = survey.target.sslmode, survey.shaken
    if not survey.network or shake is None or survey.target.needs_tls or in_clear(survey):
        return None  # the finding above says more
    best = _strongest(survey, shake)
    return Found(
        f'sslmode is "{mode}", but the server offers TLS: an attacker in between can switch it '
        "off.",
        f"Set {_words(best)}; manage.py checkdbconn --sslmodes tries all modes.",
        f"sslmode is from {survey.target.source('sslmode')}; the server answered with TLS.",
        {"OPTIONS": best},
    )


@rule("W113", "verify-full would work but is not used", connects=True)
def could_verify(survey: Survey) -> Found | None:
    """The chain and the name are in order already."""
    shake, mode = unchecked(survey), survey.target.sslmode
    if shake is None or mode == MODES[-1] or not survey.target.needs_tls:
        return None
    best = _strongest(survey, shake)
    if best["sslmode"] != MODES[-1]:
        return None
    return Found(
        f'sslmode is "{mode}", although the certificate can be verified in full.',
        f"Set {_words(best)}.",
        f"A TLS handshake verified chain and name against {best.get('sslrootcert', shake.trust)}.",
        {"OPTIONS": best},
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


@rule("W129", "libpq may end the process in a TLS handshake")
def ends_processes(survey: Survey) -> Found | None:
    """This package's engine names the file itself when it connects."""
    target, major = survey.target, survey.libpq // 10_000
    if survey.refused or survey.project.resilient or target.unix or target.sslrootcert:
        return None
    if major not in ENDS_PROCESSES or target.sslmode == "disable":
        return None
    file = os.path.join(target.home, ".postgresql", "root.crt")
    return Found(
        f"libpq {major} crashes the process (SIGSEGV) if the server goes away in the middle of a "
        "TLS handshake, as it does in a restart.",
        f'Set OPTIONS["sslrootcert"] to "{file}", libpq\'s own default, or install libpq 18.',
        f"The driver is {survey.driver} with libpq {survey.libpq}; sslrootcert is not set.",
        {"OPTIONS": {"sslrootcert": file}},
    )
