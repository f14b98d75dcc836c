"""Peers that send what no PostgreSQL sends: malformed, endless, slow, or made for a terminal."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PATIENCE = 20.0
#: ANSI, OSC, bidi, C1, backspaces: what a terminal would obey.
NASTY = "\x1b[2J\x1b]0;owned\x07 \u202eterces\u202c \x9b31m \x08\x08"
MEGABYTE = 1024 * 1024
LARGE = 100 * MEGABYTE
SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSS_REQUEST = struct.pack("!II", 8, 80877104)

Talk = Callable[["Line"], None]


class Line:
    """One connection, after the request for TLS was answered."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link

    def send(self, *messages: bytes) -> None:
        self.link.sendall(b"".join(messages))

    def hear(self) -> bytes:
        heard = self.link.recv(65536)
        if not heard:
            raise OSError("hung up")
        return heard

    def forever(self, chunk: bytes) -> None:
        """Until the other side hangs up."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.link.sendall(chunk)

    def drip(self, data: bytes) -> None:
        for number in range(len(data)):
            self.link.sendall(data[number : number + 1])
            time.sleep(0.2)

    def silent(self) -> None:
        while self.link.recv(65536):
            pass

    def log_in(self, *more: bytes, process: int = 4242, version: str = "16.4") -> None:
        self.hear()
        self.send(OK, *CALM, parameter("server_version", version), *more, key(process), READY)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def error(text: bytes, code: bytes = b"57P99", kind: bytes = b"E") -> bytes:
    return message(kind, b"SFATAL\0VFATAL\0C" + code + b"\0M" + text + b"\0\0")


def notice(text: bytes) -> bytes:
    return message(b"N", b"SWARNING\0VWARNING\0C01000\0M" + text + b"\0\0")


def parameter(name: str, value: str) -> bytes:
    return message(b"S", name.encode() + b"\0" + value.encode("utf-8", "surrogateescape") + b"\0")


def key(process: int) -> bytes:
    return message(b"K", struct.pack("!iI", process, 7))


def columns(count: int, name: bytes = b"c", oid: int = 25) -> bytes:
    one = name + b"\0" + struct.pack("!IhIhih", 0, 0, oid, -1, -1, 0)
    return message(b"T", struct.pack("!H", count) + one * count)


def row(*values: bytes | None) -> bytes:
    cells = b"".join(
        struct.pack("!i", -1) if each is None else struct.pack("!i", len(each)) + each
        for each in values
    )
    return message(b"D", struct.pack("!H", len(values)) + cells)


OK = message(b"R", struct.pack("!I", 0))
READY = message(b"Z", b"I")
NOTIFICATION = message(b"A", struct.pack("!I", 1) + b"channel\0" + b"p" * 900 + b"\0")
DONE = message(b"C", b"SELECT 1\0")
# psycopg 3 asks with the extended protocol.
PARSED = message(b"1", b"") + message(b"2", b"")
CALM = (
    parameter("client_encoding", "UTF8"),
    parameter("standard_conforming_strings", "on"),
    parameter("DateStyle", "ISO, MDY"),
    parameter("TimeZone", "UTC"),
    parameter("in_hot_standby", "off"),
    parameter("default_transaction_read_only", "off"),
)


def answering(*messages: bytes, large: bytes = b"") -> Talk:
    """Log everybody in, and answer each question with the same; ``large``: a message of 100 MB."""

    def talk(line: Line) -> None:
        line.log_in()
        while True:
            asked = line.hear()
            line.send(PARSED if asked[:1] == b"P" else b"")
            if large:
                line.send(large)
                for _ in range(LARGE // MEGABYTE):
                    line.send(b"x" * MEGABYTE)
            line.send(*messages)

    return talk


def rows(count: int, *values: bytes | None) -> Talk:
    cells = values or tuple(b"1" for _ in range(count))
    return answering(columns(len(cells)), *[row(*cells)] * count, DONE, READY)


def refusing(*messages: bytes) -> Talk:
    """Answer the start-up packet, and hang up."""

    def talk(line: Line) -> None:
        line.hear()
        line.send(*messages)

    return talk


def flooding(chunk: bytes, *, login: bool = False, first: bytes = b"") -> Talk:
    def talk(line: Line) -> None:
        if login:
            line.log_in()
            asked = line.hear()
            line.send(PARSED if asked[:1] == b"P" else b"", first)
        else:
            line.hear()
            line.send(first)
        line.forever(chunk)

    return talk


def telling(*parameters: bytes, **login: Any) -> Talk:
    """Log in with odd parameters, then answer nothing that could be read."""

    def talk(line: Line) -> None:
        line.log_in(*parameters, **login)
        while True:
            line.hear()
            line.send(error(b"no such thing", b"42883"), READY)

    return talk


def dripping(line: Line) -> None:
    line.hear()
    line.drip(error(b"slowly does it, and slower yet" * 4))


def hanging(line: Line) -> None:
    line.log_in()
    line.silent()


def console(line: Line) -> None:
    """A pooler whose console shows what no PgBouncer shows."""
    line.log_in(process=77)
    while True:
        asked = line.hear()
        head = PARSED if asked[:1] == b"P" else b""
        if b"SHOW CONFIG" in asked:
            names = message(
                b"T",
                struct.pack("!H", 2)
                + b"".join(
                    name + b"\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0)
                    for name in (b"key", b"value")
                ),
            )
            config = (
                row(b"max_prepared_statements", b"banana"),
                row(b"default_pool_size", b"-\x1b[1m"),
                row(b"client_idle_timeout", b"nan"),
            )
            line.send(head, names, *config, DONE, READY)
        elif b"SHOW" in asked:
            line.send(head, columns(3, b"odd\x1b[2J"), row(b"a", None, b"\x07"), DONE, READY)
        else:
            count = asked.count(b"pg_catalog.current_setting(") + 8 if b"inet_" in asked else 1
            line.send(head, columns(count), row(*[b"999"] * count), DONE, READY)


def wrapped(value: bytes) -> Talk:
    """The same value in as many columns as the question has: a row of the right shape."""

    def talk(line: Line) -> None:
        line.log_in()
        while True:
            asked = line.hear()
            count = asked.count(b"pg_catalog.current_setting(") + 8
            head = PARSED if asked[:1] == b"P" else b""
            for number in (count,):
                line.send(head, columns(number), row(*[value] * number), DONE, READY)

    return talk


# -- certificates ---------------------------------------------------------------------------------


def forged(folder: Path, *changes: tuple[bytes, bytes], names: int = 1) -> ssl.SSLContext:
    """Present a certificate that is changed after it was made: ``(what, by what)``."""
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "commonname-of-the-peer")])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    dns = [x509.DNSName(f"alternative-{number:06}.example") for number in range(names)]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(own.public_key())
        .serial_number(4711)
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(datetime(2044, 4, 4, 4, 4, 4, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName(dns), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\5\0"), critical=False
        )
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.6"), b"\5\0"), critical=False
        )
        .sign(own, hashes.SHA256())
    )
    der = made.public_bytes(serialization.Encoding.DER)
    for old, new in changes:
        if len(old) != len(new) or old not in der:
            raise ValueError(f"{old!r} cannot become {new!r}")
        der = der.replace(old, new)
    file = folder / f"{len(list(folder.iterdir()))}.pem"
    file.write_text(
        ssl.DER_cert_to_PEM_cert(der)
        + own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


NAME, ALTERNATIVE = b"commonname-of-the-peer", b"alternative-000000.example"
UNTIL = b"440404040404Z"
FORGED: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "certificate with an extension twice": ((b"\x2a\x03\x04\x06", b"\x2a\x03\x04\x05"),),
    "certificate of a bad version": ((b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"),),
    "certificate with invalid UTF-8": (
        (b"\x0c\x16" + NAME, b"\x14\x16\xff\xfe\xfd" + NAME[3:]),  # TeletexString
        (ALTERNATIVE, b"\xff\xfe\xfd" + ALTERNATIVE[3:]),
    ),
    "certificate that speaks to terminals": (
        (NAME, b"\x1b[2J\x1b]0;own\x07" + NAME[12:]),
        (ALTERNATIVE, b"\x1b[2J\xe2\x80\xae" + ALTERNATIVE[7:]),
    ),
    "certificate with a NUL in its names": (
        (NAME, b"a\0" + NAME[2:]),
        (ALTERNATIVE, b"a\0" + ALTERNATIVE[2:]),
    ),
    "certificate without an end": ((UNTIL, b"449999999999Z"),),
}


# -- all of them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """What one of them does.

    ``first``: instead of an answer to the request for TLS. ``patient``: to be met with the usual
    time limits, so that there is time to send much. ``every_option``: to be met with all that the
    command can do.
    """

    talk: Talk
    first: Talk | None = None
    forged: tuple[tuple[bytes, bytes], ...] | None = None
    names: int = 1
    patient: bool = False
    every_option: bool = False


def greeting(*data: bytes, hold: bool = False) -> Peer:
    """Answer the request for TLS so."""

    def talk(line: Line) -> None:
        line.hear()
        line.send(*data)
        if hold:
            line.silent()

    return Peer(talk, first=talk)


def _endless_greeting(line: Line) -> None:
    line.forever(b"E" * 65536)


def _tls_drip(line: Line) -> None:
    line.hear()
    line.send(b"S")
    line.hear()
    line.drip(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76" + b"\3" * 100)


# What comes before 100 MB that make it complete.
VALUE = struct.pack("!H", 1) + struct.pack("!i", LARGE)
LARGE_VALUE = columns(1) + b"D" + struct.pack("!I", LARGE + len(VALUE) + 4) + VALUE
WORDS = b"SERROR\0VERROR\0C42883\0M"
LARGE_ERROR = b"E" + struct.pack("!I", LARGE + len(WORDS) + 2 + 4) + WORDS

PEERS: dict[str, Peer] = {
    "rubbish for an answer": greeting(bytes(range(256))),
    "an error without an end": greeting(b"E" + b"x" * 100_000, hold=True),
    "an error of 2 GB that does not come": greeting(b"E\x7f\xff\xff\xffSFATAL\0", hold=True),
    "an error for terminals": greeting(error(NASTY.encode())),
    "yes, and then plain text": greeting(b"S", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "yes, and then nothing": greeting(b"S", hold=True),
    "no, and more than that": greeting(b"N", OK, READY),
    "talks without being asked": Peer(_endless_greeting, first=_endless_greeting),
    "a handshake by drips": Peer(_tls_drip, first=_tls_drip),
    **{name: Peer(refusing(error(b"enough")), forged=how) for name, how in FORGED.items()},
    "certificate with 2,000 names": Peer(refusing(error(b"enough")), forged=(), names=2000),
    "an unknown way to authenticate": Peer(refusing(message(b"R", struct.pack("!I", 99)))),
    "SASL without a mechanism": Peer(refusing(message(b"R", struct.pack("!I", 10) + b"\0"))),
    "SASL with an odd mechanism": Peer(
        refusing(message(b"R", struct.pack("!I", 10) + NASTY.encode() + b"\0\0"))
    ),
    "a request that is cut": Peer(refusing(b"R\0\0\0\x08\0\0")),
    "a request that is too long": Peer(refusing(message(b"R", b"\0" * 5000))),
    "a refusal for terminals": Peer(refusing(error(NASTY.encode()))),
    "a refusal in no encoding": Peer(refusing(error(b"\xff\xfe d\xe9marre \x80\x1b[31m"))),
    "a refusal without words": Peer(refusing(message(b"E", b"\0"))),
    "a refusal of 100 MB": Peer(
        refusing(b"E" + struct.pack("!I", LARGE), b"SFATAL\0C57P99\0M" + b"x" * MEGABYTE)
    ),
    "a refusal by drips": Peer(dripping),
    "notices at login": Peer(telling(notice(NASTY.encode()))),
    "notices without an end at login": Peer(
        flooding(notice(NASTY.encode()) * 500, first=OK), patient=True
    ),
    "parameters without an end": Peer(
        flooding(parameter("x" * 900, "y" * 9000) * 50, first=OK), patient=True
    ),
    "an odd server_version": Peer(telling(parameter("server_version", f"banana {NASTY}"))),
    "a huge server_version": Peer(telling(version="9" * 5000)),
    "an odd encoding": Peer(
        telling(parameter("client_encoding", f"KLINGON {NASTY}")), every_option=True
    ),
    "an odd standby": Peer(
        telling(parameter("in_hot_standby", f"perhaps {NASTY}")), every_option=True
    ),
    "a key of an odd length": Peer(refusing(OK, message(b"K", b"\0"), READY)),
    "no answer": Peer(hanging),
    "rows of the wrong shape": Peer(rows(1, b"1", b"2", b"3"), every_option=True),
    "many rows": Peer(rows(3000, b"1")),
    "empty rows": Peer(answering(columns(0), row(), DONE, READY)),
    "values for terminals": Peer(wrapped(NASTY.encode()), every_option=True),
    "values in no encoding": Peer(wrapped(b"\xff\xfe\x1b[31m")),
    "values that are no numbers": Peer(
        wrapped(b"99999999999999999999999999999999"), every_option=True
    ),
    "rows without an end": Peer(
        flooding(row(b"x" * 1000) * 500, login=True, first=columns(1)), patient=True
    ),
    "notices without an end": Peer(
        flooding(notice(NASTY.encode()) * 500, login=True), patient=True
    ),
    "notifications without an end": Peer(flooding(NOTIFICATION * 500, login=True), patient=True),
    "a value of 100 MB": Peer(answering(DONE, READY, large=LARGE_VALUE), patient=True),
    "65,535 columns": Peer(answering(columns(65535), DONE, READY)),
    "an unknown message": Peer(answering(message(b"!", b"?"), READY)),
    "a row before its columns": Peer(answering(row(b"1"), DONE, READY)),
    "nothing for an answer": Peer(answering(READY)),
    "a copy for an answer": Peer(answering(message(b"H", b"\0\0\0"), message(b"d", b"x"), READY)),
    "an error for terminals as an answer": Peer(
        answering(error(NASTY.encode(), b"42883", b"E"), READY)
    ),
    "an error of 100 MB as an answer": Peer(
        answering(b"\0\0", READY, large=LARGE_ERROR), patient=True
    ),
    "a pooler with an odd console": Peer(console, every_option=True),
}


class Hostile:
    """One of them, listening on loopback until it is closed."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        self._peer = peer
        changes = peer.forged
        self._tls = None if changes is None else forged(folder, *changes, names=peer.names)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with link, suppress(OSError, ValueError):
            link.settimeout(PATIENCE)
            if self._peer.first is not None:
                self._peer.first(Line(link))
                return
            for talking in self._begun(link):
                with talking:
                    self._peer.talk(Line(talking))

    def _begun(self, link: socket.socket) -> Iterator[socket.socket]:
        """Answer the requests for encryption; what comes after them is for ``talk``."""
        while link.recv(8, socket.MSG_PEEK | socket.MSG_WAITALL) in {SSL_REQUEST, GSS_REQUEST}:
            asked = link.recv(8)
            if asked == SSL_REQUEST and self._tls is not None:
                link.sendall(b"S")
                yield self._tls.wrap_socket(link, server_side=True)
                return
            link.sendall(b"N")
        yield link
