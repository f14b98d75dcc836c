"""The stages before the login: settings, names, sockets, and a handshake for TLS."""

from __future__ import annotations

import errno
from typing import Final

from ..settings.hosts import Host
from ..settings.target import Target
from .greetings import Answer
from .handshakes import TlsFacts, handshake, names_protocol
from .network import Knock, Place, knock, resolve
from .visit import NotNeeded, Stopped, Trip


def settings(trip: Trip) -> str:
    """Nothing is sent yet."""
    target = trip.target
    if target.problems:
        raise Stopped(" ".join(target.problems), target.advice, False)
    hosts = ", ".join(map(str, target.hosts))
    return (
        f'{hosts}, database "{target.database}" as "{target.user}", '
        f'sslmode "{target.sslmode}" (from {target.source("sslmode")}).'
    )


def dns(trip: Trip) -> str:
    """Every host's addresses; it is enough that one has some."""
    target, unknown = trip.target, []
    for host in target.hosts:
        try:
            trip.places += resolve(host, trip.timeout)
        except (OSError, TimeoutError) as error:
            unknown.append(_unknown(host, error))
    if unknown and not trip.places:
        addresses = all(host.address for host in target.hosts)
        raise Stopped(" ".join(unknown), _address(target) if addresses else _NAME, not addresses)
    told = [*(_addresses(host, trip.places) for host in target.hosts if host.named), *unknown]
    if not told:
        raise NotNeeded("No lookup is needed: HOST is an address or a Unix socket.")
    return " ".join(filter(None, told))


def _unknown(host: Host, error: OSError) -> str:
    if host.address:  # which nobody looks up
        return f'hostaddr is "{host.address}", which is not an address.'
    return f'"{host.name}" does not resolve ({error.strerror or error}).'


_NAME: Final = (
    "Check the spelling of HOST, and that this machine can resolve it; in a container, "
    "that the server's container runs in the same network."
)


def _address(target: Target) -> str:
    place = target.source("hostaddr")
    there = "" if place == "DATABASES" else f" in {place}"
    return f"Correct hostaddr{there}: it takes an address, HOST takes names."


def _addresses(host: Host, places: tuple[Place, ...]) -> str:
    own = dict.fromkeys(str(place.address[0]) for place in places if place.host == host)
    return f'"{host.name}" is {", ".join(own)}.' if own else ""


def tcp(trip: Trip) -> str:
    """Every address at once; it is enough that one accepts."""
    if not trip.places:
        said = "The folder of the Unix socket is unknown; the login will show whether it works."
        raise NotNeeded(said)
    trip.knocks = knock(trip.places, trip.timeout)
    trip.reached = next((each for each in trip.knocks if each.accepted), None)
    said = " ".join(_heard(each, trip.timeout) for each in trip.knocks)
    if trip.reached is None:
        denied = all(each.code == errno.EACCES for each in trip.knocks)
        raise Stopped(said, _ADVICE.get(trip.knocks[0].code, _UNREACHABLE), not denied)
    trip.seconds["TCP"] = trip.reached.seconds
    return said


_UNREACHABLE: Final = (
    "Check HOST and PORT, the routes from this machine, and every firewall on the way (cloud: "
    "security groups)."
)
_ADVICE: Final = {
    errno.ECONNREFUSED: "Check that the server runs, and that listen_addresses and port in its "
    "configuration fit HOST and PORT.",
    errno.ENOENT: "Check that the server runs on this machine, and that its "
    "unix_socket_directories has the folder in HOST.",
    errno.EACCES: "Give this account access to the socket's folder, or connect over TCP.",
}


def _heard(each: Knock, timeout: float) -> str:
    if each.accepted:
        return f"{each.place} accepts connections."
    if each.seconds is None:
        return f"{each.place} does not answer within {timeout:.3g} s."
    return f"{each.place}: {each.error}."


def tls(trip: Trip) -> str:
    """What the address offers, and whether it is PostgreSQL at all."""
    target, reached = trip.target, trip.reached
    if reached is None or not isinstance(reached.place.address, tuple):
        raise NotNeeded("libpq does not use TLS over a Unix socket.")
    trip.tls = found = shake(reached.place, target, trip.connect.libpq, trip.timeout)
    trip.seconds["TLS"] = max(0.0, found.seconds - (reached.seconds or 0.0)) or None
    _check_answer(str(reached.place), found, trip.timeout)
    if found.answer is Answer.PLAIN:
        return _without_tls(target)
    if target.sslmode == "disable":
        raise NotNeeded('The server offers TLS, but sslmode is "disable".')
    if found.failure and target.needs_tls:
        raise Stopped(*_failed(target, found))
    return f"{found.version}, {found.cipher}." if found.version else f"Fails: {found.failure}."


def shake(place: Place, target: Target, libpq: int, timeout: float) -> TlsFacts:
    """Shake hands with what listens at an address, as libpq would."""
    host, port = place.address[:2]
    return handshake(
        host,
        port,
        place.host.name,
        direct=target.direct,
        timeout=timeout,
        trust=target.trust,
        alpn=names_protocol(libpq),
    )


def _check_answer(place: str, found: TlsFacts, timeout: float) -> None:
    """Stop where no PostgreSQL is."""
    if found.answer is Answer.OTHER:
        raise Stopped(f"{place} is {found.said}, not PostgreSQL.", "Correct HOST and PORT.", False)
    if found.answer is Answer.ERROR:
        raise Stopped(f"{place} answers: {found.said}.", "Read the server's log.", True)
    others = "not PostgreSQL: check what listens there, and read its log."
    if found.answer is Answer.SILENT:
        said = f"{place} accepts connections but does not answer within {timeout:.3g} s."
        advice = "A server that hangs, a proxy that cannot reach it, or"
        raise Stopped(said, f"{advice} {others}", True)
    if found.answer is Answer.CLOSED:
        why = f" ({found.said})" if found.said else ""
        said = f"{place} accepts connections and closes them without an answer{why}."
        advice = "A proxy without a server behind it, a server that is starting or stopping, or"
        raise Stopped(said, f"{advice} {others}", True)


def _without_tls(target: Target) -> str:
    mode = f'sslmode "{target.sslmode}"'
    if target.needs_tls:
        advice = "Enable TLS on the server (ssl = on, with a certificate)."
        raise Stopped(f"The server offers no TLS, which {mode} requires.", advice, False)
    raise NotNeeded(f"The server offers no TLS, and {mode} goes on without.")


def _failed(target: Target, found: TlsFacts) -> tuple[str, str, bool]:
    if found.direct and found.answer is Answer.TLS and found.version is None:
        return (
            f"Direct negotiation fails ({found.failure}); the server offers the usual one.",
            'Remove sslnegotiation "direct": it needs PostgreSQL 17 or a proxy that supports it.',
            False,
        )
    old = f"; with {found.version} it would succeed" if found.version else ""
    return (
        f"The TLS handshake fails: {found.failure}{old}.",
        "Look at ssl_min_protocol_version and ssl_ciphers on both sides, and at the server's log.",
        "in time" in found.failure or "eof" in found.failure,
    )
