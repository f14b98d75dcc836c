"""What an address answers to PostgreSQL's request for TLS, and who that is.

Source: PostgreSQL manual, "Message Flow", SSL Session Encryption. No name and no password is
sent.
"""

from __future__ import annotations

import enum
import socket
import struct
import time
from typing import Final

SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
#: Seconds more for a silent address to answer an empty line, as HTTP servers do.
NUDGE: Final = 0.5

# Parts of the first bytes of those that are met where PostgreSQL was expected.
_OTHERS: Final = (
    (b"HTTP/", "an HTTP server"),
    (b"<html", "an HTTP server"),
    (b"SSH-", "an SSH server"),
    (b"mysql_native_password", "a MySQL or MariaDB server"),
    (b"caching_sha2_password", "a MySQL server"),
    (b"mariadb", "a MariaDB server"),
    (b"-ERR", "a Redis server"),
)
# TLS records: alert and handshake, of any version.
_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")


class Answer(enum.Enum):
    """What came back."""

    TLS = "offers TLS"
    PLAIN = "offers no TLS"
    SILENT = "accepts connections but says nothing"
    CLOSED = "accepts connections and closes them without an answer"
    ERROR = "answers with an error"
    OTHER = "does not speak PostgreSQL's protocol"


def ask(link: socket.socket, deadline: float) -> tuple[Answer, str]:
    """Send SSLRequest; return the answer and, for ERROR and OTHER, what was said or who it is.

    ``deadline`` is of ``time.monotonic``; a silent address gets :data:`NUDGE` seconds more.
    """
    try:
        link.settimeout(remaining(deadline))
        link.sendall(SSL_REQUEST)
        try:
            first = link.recv(1)
        except TimeoutError:
            return _nudge(link)
        if first in {b"S", b"N"} and not _more(link):
            return (Answer.TLS if first == b"S" else Answer.PLAIN), ""
        return _judge(first + _rest(link)) if first else (Answer.CLOSED, "")
    except OSError as error:
        return Answer.CLOSED, error.strerror or ""


def remaining(deadline: float) -> float:
    """Seconds until a deadline; never 0, which would mean "do not wait" to a socket."""
    return max(0.001, deadline - time.monotonic())


def _more(link: socket.socket) -> bool:
    """Whether more has come than the one byte PostgreSQL sends ("SSH-2.0" begins with S, too)."""
    link.setblocking(False)
    try:
        return bool(link.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def _rest(link: socket.socket) -> bytes:
    link.settimeout(NUDGE)
    try:
        return link.recv(1024)
    except OSError:
        return b""


def _nudge(link: socket.socket) -> tuple[Answer, str]:
    """End the line: a server of a text protocol that has waited for that now tells itself."""
    link.settimeout(NUDGE)
    link.sendall(b"\r\n\r\n")
    said = _rest(link)
    return _judge(said) if len(said) > 1 else (Answer.SILENT, "")


def _judge(said: bytes) -> tuple[Answer, str]:
    error = _error(said)
    return (Answer.ERROR, error) if error else (Answer.OTHER, who(said))


def _error(said: bytes) -> str:
    """The text of PostgreSQL's ErrorResponse, "" if it is none."""
    if said[:1] != b"E":
        return ""
    if len(said) > 5 and 5 < int.from_bytes(said[1:5], "big") < 30_000:
        fields = said[5:].split(b"\0")
        texts = [field[1:] for field in fields if field[:1] == b"M"]
        return _printable(texts[0]) if texts else ""
    # Before it knows the client's protocol, a server out of processes uses that of version 2.
    return _printable(said[1:-1]) if said.endswith(b"\0") else ""


def who(said: bytes) -> str:
    """Return what speaks like this, or its words."""
    if said.startswith(_TLS_RECORDS):
        return "a server that begins with TLS at once"
    lower = said.lower()
    known = (name for part, name in _OTHERS if part.lower() in lower)
    return next(known, None) or f'something that says "{_printable(said)[:40]}"'


def _printable(said: bytes) -> str:
    text = said.decode("utf-8", errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
