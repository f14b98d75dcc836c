"""Where an alias connects to, put together as libpq does it. Nothing here is secret.

No file is read but the service file, and nothing is sent anywhere.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .lookup import Lookup, system_user
from .numbers import NAMES, Value, whole, wrong
from .pasted import NOT_SHOWN, host_slip, slip

#: From no protection to full protection.
MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
#: The value of ``sslrootcert`` that means the authorities which the system trusts (libpq 16).
SYSTEM: Final = "system"

_PORT: Final = 5432
_NOTHING: Final = ("", NOT_SHOWN)  # the latter is told of already
# As the settings call them; the others are called as libpq does.
_KEYS: Final = {"host": "HOST", "port": "PORT", "user": "USER", "dbname": "NAME"}


@dataclass(frozen=True, slots=True)
class Host:
    """One of the servers that libpq tries in turn.

    Attributes:
        name: a host name, an address, or the folder of a Unix socket ("@..." an abstract one);
            "" with an ``address``: none was given; "" without: libpq's own folder.
        address: ``hostaddr``, which spares the look-up; "" if not given.
        port: of TCP, or in the name of the Unix socket.
    """

    name: str
    address: str
    port: int

    @property
    def unix(self) -> bool:
        """Whether it is reached over a Unix socket."""
        return not self.address and self.name[:1] in {"", "/", "@"}

    def __str__(self) -> str:
        name = self.name or self.address or "the default Unix socket"
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where an alias connects, and how.

    Attributes:
        alias: its name in DATABASES.
        hosts: in libpq's order; empty if the settings make no sense, see ``problems``.
        user, database: as sent to the server.
        sslmode: the one in force.
        sslrootcert: as set, "" if not; see :attr:`trust`.
        sslcert, sslkey: paths of the client's certificate and key, "" for libpq's default.
        sslnegotiation: "postgres" or "direct".
        require_auth: the ways to authenticate that are allowed, "" for all (libpq 16).
        connect_timeout: seconds per address; ``None``: libpq waits without end.
        target_session_attrs: which kind of server is wanted, "any" by default.
        service: the service file's section in use, "" if none.
        home: the folder in which libpq looks for ``.postgresql/root.crt``.
        sources: (name, where its value comes from) for everything set anywhere.
        problems: what is wrong with the settings before anything is sent, as sentences.
        garbled: the names of those that should be whole numbers and are not.
    """

    alias: str
    hosts: tuple[Host, ...]
    user: str
    database: str
    sslmode: str = "prefer"
    sslrootcert: str = ""
    sslcert: str = ""
    sslkey: str = ""
    sslnegotiation: str = "postgres"
    require_auth: str = ""
    connect_timeout: float | None = None
    target_session_attrs: str = "any"
    service: str = ""
    home: str = ""
    sources: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    garbled: tuple[str, ...] = ()

    @property
    def direct(self) -> bool:
        """Whether TLS begins with the first byte (``sslnegotiation=direct``, libpq 17)."""
        return self.sslnegotiation == "direct"

    @property
    def needs_tls(self) -> bool:
        """Whether libpq refuses to go on without TLS."""
        return MODES.index(self.sslmode) >= MODES.index("require")

    @property
    def root_file(self) -> str:
        """The file of authorities that libpq reads; "" if there is none.

        libpq checks against it whenever it exists, also under ``sslmode=require`` and below.
        """
        if self.sslrootcert:
            return "" if self.sslrootcert == SYSTEM else self.sslrootcert
        usual = os.path.join(self.home, ".postgresql", "root.crt")
        return usual if os.path.exists(usual) else ""

    @property
    def trust(self) -> str:
        """What to check the server's certificate against: a file's path or :data:`SYSTEM`."""
        return self.root_file or SYSTEM

    @property
    def advice(self) -> str:
        """What to do about the problems."""
        places = {place for _, place in self.sources} - {"DATABASES"}
        elsewhere = any(f"(from {place})" in each for each in self.problems for place in places)
        return "Correct it there." if elsewhere else "Correct this entry of DATABASES."

    def logged_in(self, user: str, database: str) -> Target:
        """As it turned out at the login: the option ``credentials`` may give another user."""
        if (user, database) == (self.user, self.database):
            return self
        sources = {**dict(self.sources), "user": "the option credentials"}
        return replace(self, user=user, database=database, sources=tuple(sources.items()))

    def source(self, name: str) -> str:
        """Where the value of a libpq parameter comes from."""
        return dict(self.sources).get(name, "libpq's default")


def target(alias: str, params: Mapping[str, object], environ: Mapping[str, str]) -> Target:
    """Return where an alias connects.

    Args:
        alias: its name in DATABASES.
        params: what goes to the driver's ``connect``: ``wrapper.get_connection_params()``.
        environ: the environment that libpq sees.

    Never raises: what makes no sense is told in ``problems``.
    """
    problems: list[str] = []
    given = _Safe(params, environ, problems)
    problems.extend(_service_problems(given))
    user = given.text("user", system_user())
    hosts = _hosts(given, problems)
    numbers = _numbers(given)
    unix = bool(hosts) and all(host.unix for host in hosts)
    garbled = dict(wrong(numbers, unix=unix))
    problems.extend(garbled.values())
    sslrootcert = given.text("sslrootcert")
    usual = "verify-full" if sslrootcert == SYSTEM else "prefer"
    return Target(
        alias=alias,
        hosts=hosts,
        user=user,
        database=given.text("dbname", user),
        sslmode=_choice(given, "sslmode", usual, MODES, problems),
        sslrootcert=sslrootcert,
        sslcert=given.text("sslcert"),
        sslkey=given.text("sslkey"),
        sslnegotiation=_choice(
            given, "sslnegotiation", "postgres", ("postgres", "direct"), problems
        ),
        require_auth=given.text("require_auth"),
        connect_timeout=_seconds(numbers),
        target_session_attrs=given.text("target_session_attrs", "any"),
        service=given.service,
        home=environ.get("HOME") or os.path.expanduser("~"),
        sources=tuple(given.sources.items()),
        problems=tuple(problems),
        garbled=tuple(garbled),
    )


class _Safe(Lookup):
    """Every value as it may be shown: what may hold a password is a problem instead."""

    def __init__(
        self, params: Mapping[str, object], environ: Mapping[str, str], problems: list[str]
    ) -> None:
        super().__init__(params, environ)
        self._problems = problems
        self.service = self._shown("service", self.service)

    def text(self, name: str, default: str = "") -> str:
        return self._shown(name, super().text(name, default))

    def _shown(self, name: str, value: str) -> str:
        key = _KEYS.get(name, name) + self.place(name)
        told = (host_slip if name in {"host", "hostaddr"} else slip)(key, value)
        if not told:
            return value
        self._problems.append(told)
        return NOT_SHOWN


def _service_problems(given: Lookup) -> list[str]:
    if given.service in {"", NOT_SHOWN} or given.section:
        return []
    return [
        f'The service "{given.service}"{given.place("service")} is in no service file: add it to '
        "~/.pg_service.conf or to the file that the environment variable PGSERVICEFILE names."
    ]


def _hosts(given: Lookup, problems: list[str]) -> tuple[Host, ...]:
    """Pair names, addresses and ports as libpq does."""
    names, addresses, ports = (given.text(key).split(",") for key in ("host", "hostaddr", "port"))
    if problems:  # of one of them, or of the service
        return ()
    count = len(addresses) if addresses != [""] else len(names)
    if names != [""] and len(names) != count:
        told = f"{len(names)} host names{given.place('host')} do not fit {count} addresses"
        problems.append(f"{told} (hostaddr{given.place('hostaddr')}).")
    elif len(ports) not in {1, count}:
        told = f"{len(ports)} ports{given.place('port')} do not fit {count} hosts"
        problems.append(f"{told}{given.place('host')}: give one, or one for each.")
    place = given.place("port")
    wrong_ports = [port for port in ports if port and not _is_port(port)]
    problems.extend(_port_problem(port, place) for port in wrong_ports[:1])
    if problems:
        return ()
    return tuple(
        Host(
            name=names[number] if names != [""] else "",
            address=addresses[number] if addresses != [""] else "",
            port=int(ports[number if len(ports) > 1 else 0] or _PORT),
        )
        for number in range(count)
    )


def _port_problem(port: str, place: str) -> str:
    """A slip of the finger is short; what is longer may be a password in the wrong place."""
    shown = f'The port "{port}"' if len(port) < 7 and port.isalnum() else "PORT"
    return f"{shown}{place} is not a number from 1 to 65535."


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 65536


def _choice(
    given: Lookup, name: str, default: str, known: Sequence[str], problems: list[str]
) -> str:
    """The value of a parameter that has to be one of a few."""
    value = given.text(name, default)
    if value in known:
        return value
    if value == NOT_SHOWN:  # told already
        return default
    near = difflib.get_close_matches(value.lower(), known, 1) or [default]
    problems.append(
        f'{name} is "{value}" (from {given.sources[name]}), which libpq does not know: did you '
        f'mean "{near[0]}"?'
    )
    return default


def _numbers(given: Lookup) -> dict[str, Value]:
    """What is set of the parameters that are whole numbers."""
    told = ((name, given.text(name)) for name in NAMES)
    return {name: Value(text, given.place(name)) for name, text in told if text not in _NOTHING}


def _seconds(numbers: Mapping[str, Value]) -> float | None:
    """``connect_timeout``; libpq takes 0 and less for no limit."""
    seconds = whole(numbers["connect_timeout"].text) if "connect_timeout" in numbers else None
    return float(seconds) if seconds is not None and seconds > 0 else None
