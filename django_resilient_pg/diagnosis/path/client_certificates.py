"""The client's own certificate: is there one, does its key fit, how long is it valid?

libpq presents it whenever the server asks for one, and goes on without where the file is missing.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Final

from ..settings.target import Target
from . import certificates
from .certificates import Certificate

# OpenSSL's reasons: the key is of another certificate, which is how a rotation looks halfway.
_OTHER_KEY: Final = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The client's own certificate.

    Attributes:
        path, key_path: of the files that libpq reads.
        certificate: what it says; ``None``: it could not be read.
        other_key: the private key belongs to another certificate.
        problem: why it could not be read, "" if it was.
    """

    path: str
    key_path: str
    certificate: Certificate | None = None
    other_key: bool = False
    problem: str = ""


def read(target: Target, passphrase: str = "") -> ClientCertificate | None:
    """Return what libpq would present; ``None``: no certificate.

    ``passphrase``: of the private key. Nobody is ever asked for one.
    """
    usual = os.path.join(target.home, ".postgresql", "postgresql")
    path, key = target.sslcert or f"{usual}.crt", target.sslkey or f"{usual}.key"
    if target.sslmode == "disable" or not os.path.exists(path):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(path, key, lambda: passphrase)
    except ssl.SSLError as error:
        other = error.reason in _OTHER_KEY
        words = (error.reason or "no PEM file").lower().replace("_", " ")
        return ClientCertificate(path, key, other_key=other, problem=words)
    except (OSError, ValueError) as error:
        words = (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
        return ClientCertificate(path, key, problem=words)
    own, note = _presented(context)
    return ClientCertificate(path, key, own, problem=note)


def _presented(context: ssl.SSLContext) -> tuple[Certificate | None, str]:
    """Read it as it comes out of a handshake with ourselves: ``ssl`` reads no file of any other."""
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for end in (client, server, client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
        return certificates.read(client)
    except (OSError, ValueError) as error:
        return None, f"it cannot be presented ({type(error).__name__})"
