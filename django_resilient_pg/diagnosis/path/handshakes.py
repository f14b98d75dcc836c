"""A real TLS handshake with a server, to see its certificate and what is wrong with it.

Sources: PostgreSQL manual, "Message Flow" (SSLRequest; direct negotiation with ALPN); OpenSSL's
X509_V_ERR codes. Nothing is logged in, no name and no password is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from dataclasses import dataclass, replace
from typing import Final

from ..settings.target import SYSTEM
from . import certificates
from .certificates import Certificate
from .greetings import Answer, ask, remaining

__all__ = ["Answer", "TlsFacts", "handshake", "names_protocol", "system_file"]

ALPN: Final = "postgresql"
# libpq names the protocol in every handshake since this version, and in none before. A proxy that
# ends TLS may refuse the name.
_ALPN_SINCE: Final = 170_000
#: Seconds for the peer to say goodbye, too.
LEAVE: Final = 0.2


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What a handshake showed.

    Attributes:
        answer: to the request for TLS.
        said: who or what answered instead, for ERROR and OTHER.
        seconds: for the TCP connection and the handshake, together.
        direct: TLS was begun without asking.
        version, cipher: as agreed on, such as "TLSv1.3".
        failure: why no handshake came about that libpq would accept, whatever the certificate.
        trust: what the chain was checked against: a path, "system", or "" for not at all.
        chain_verified: whether it leads to a CA in ``trust`` and is valid now;
            ``None``: not checked, or ``trust`` cannot be read.
        verify_code, verify_error: OpenSSL's code (X509_V_ERR) and words; 0 and "" if verified.
        server_name: the name that the certificate should have.
        hostname_matches: whether it has; ``None``: not known.
        certificate: what it says.
        certificate_note: why it could not be read.
    """

    answer: Answer
    said: str = ""
    seconds: float = 0.0
    direct: bool = False
    version: str | None = None
    cipher: str | None = None
    failure: str = ""
    trust: str = ""
    chain_verified: bool | None = None
    verify_code: int = 0
    verify_error: str = ""
    server_name: str = ""
    hostname_matches: bool | None = None
    certificate: Certificate | None = None
    certificate_note: str = ""


def names_protocol(libpq: int) -> bool:
    """Whether this version of libpq (as 180000; 0: not known) sends :data:`ALPN`."""
    return libpq == 0 or libpq >= _ALPN_SINCE


def handshake(
    host: str,
    port: int,
    server_name: str = "",
    *,
    direct: bool = False,
    timeout: float = 5.0,
    trust: str = "",
    alpn: bool = True,
) -> TlsFacts:
    """Shake hands with a server, read its certificate, and hang up. Never raises.

    Args:
        host, port: the address to connect to.
        server_name: what the certificate should name, also sent as SNI; "" for none.
        direct: ``sslnegotiation=direct``.
        timeout: seconds, for all together (a silent address: half a second more).
        trust: CAs to verify the chain against: a file's path, "system", or "" for none.
        alpn: name the protocol, as libpq does (see :func:`names_protocol`).
    """
    talk = _Talk(host, port, server_name, direct, time.monotonic() + timeout)
    context, unreadable = _strict(trust)
    lenient = _lenient()
    if alpn or direct:
        context.set_alpn_protocols([ALPN])
        lenient.set_alpn_protocols([ALPN])
    facts = talk.shake(context)
    if facts.answer is Answer.TLS and (facts.verify_error or facts.failure):
        # Once more, taking whatever comes: how else to read what was refused?
        seen, code, error = talk.shake(lenient), facts.verify_code, facts.verify_error
        if seen.answer is Answer.TLS:
            chain = False if code else None
            seen = replace(seen, chain_verified=chain, verify_code=code, verify_error=error)
            facts = replace(seen, failure=facts.failure)
    elif facts.version and context.verify_mode is ssl.CERT_REQUIRED:
        facts = replace(facts, chain_verified=True)
    own = facts.certificate
    return replace(
        facts,
        direct=direct,
        trust=trust,
        verify_error=facts.verify_error or unreadable,
        server_name=server_name,
        hostname_matches=own.matches(server_name) if own and server_name else None,
    )


def _strict(trust: str) -> tuple[ssl.SSLContext, str]:
    """What libpq would accept, and why ``trust`` cannot be used, if so."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # libpq's ssl_min_protocol_version
    context.check_hostname = False  # after the chain, and with libpq's rules
    unreadable = ""
    try:
        file = system_file() if trust == SYSTEM else trust
        if file:
            context.load_verify_locations(cafile=file)
        elif trust:
            context.set_default_verify_paths()
    except OSError as error:  # ssl.SSLError is one
        unreadable = f'"{trust}" cannot be used: {_words(error)}'
    if unreadable or not trust:
        context.verify_mode = ssl.CERT_NONE
    return context, unreadable


def system_file() -> str:
    """The file with the CAs that the system trusts; "" if it is not certain.

    What is verified against it alone can be verified by libpq, too, if it is told this path. The
    word "system" may tell it less: the OpenSSL within a driver's wheel looks in other places.
    """
    paths = ssl.get_default_verify_paths()
    if paths.openssl_capath_env in os.environ and paths.openssl_cafile_env not in os.environ:
        return ""  # a folder is meant, which sslrootcert cannot name
    return paths.cafile or ""


def _lenient() -> ssl.SSLContext:
    """Whatever this OpenSSL can speak at all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@dataclass(frozen=True, slots=True)
class _Talk:
    """Conversations with one address, all until one deadline (``time.monotonic``)."""

    host: str
    port: int
    server_name: str
    direct: bool
    deadline: float

    def shake(self, context: ssl.SSLContext) -> TlsFacts:
        """Connect, ask for TLS, shake hands, hang up."""
        began = time.monotonic()
        try:
            with socket.create_connection((self.host, self.port), remaining(self.deadline)) as link:
                # The goodbye would else wait 40 ms for an acknowledgement.
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                facts = self._begin(link, context, began)
        except OSError as error:
            return TlsFacts(Answer.CLOSED, said=_words(error))
        if self.direct and facts.failure:
            # Does it not know this way, or no TLS, or not even PostgreSQL's protocol?
            asked = replace(self, direct=False).shake(context)
            return replace(asked, failure=facts.failure, version=None, cipher=None)
        return facts

    def _begin(self, link: socket.socket, context: ssl.SSLContext, began: float) -> TlsFacts:
        if not self.direct:
            answer, said = ask(link, self.deadline)
            if answer is not Answer.TLS:
                return TlsFacts(answer, said)
        link.settimeout(remaining(self.deadline))
        try:
            with context.wrap_socket(
                link, server_hostname=_sni(self.server_name), do_handshake_on_connect=False
            ) as secure:
                secure.do_handshake()
                spent = time.monotonic() - began
                facts = replace(self._seen(secure), seconds=spent)
                _take_leave(secure)
                return facts
        except ssl.SSLCertVerificationError as error:
            return TlsFacts(
                Answer.TLS, verify_code=error.verify_code, verify_error=error.verify_message
            )
        except OSError as error:
            return TlsFacts(Answer.TLS, failure=_words(error))

    def _seen(self, secure: ssl.SSLSocket) -> TlsFacts:
        certificate, note = certificates.read(secure)
        agreed = not self.direct or secure.selected_alpn_protocol() == ALPN
        cipher = secure.cipher()
        return TlsFacts(
            Answer.TLS,
            version=secure.version(),
            cipher=cipher[0] if cipher else None,
            failure="" if agreed else f'the server did not agree on the ALPN protocol "{ALPN}"',
            certificate=certificate,
            certificate_note=note,
        )


def _take_leave(secure: ssl.SSLSocket) -> None:
    """End in order, reading what is under way: else the server logs a broken connection."""
    secure.settimeout(LEAVE)
    with contextlib.suppress(OSError):
        secure.unwrap()


def _sni(name: str) -> str | None:
    """The name to send, None for what cannot be one."""
    try:
        return name if name.encode("idna") and not name.startswith(".") else None
    except UnicodeError:
        return None


def _words(error: OSError) -> str:
    """An error in a few words: ``[SSL: WRONG_VERSION_NUMBER] ...`` says it in capitals."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error)
