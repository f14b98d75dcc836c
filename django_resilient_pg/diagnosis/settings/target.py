"""Where an alias connects to, put together as libpq does it. Nothing here is secret.

No file is read but the service file, and nothing is sent anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ...conf.declarations import suggestion
from ...conf.secrets import NOT_SHOWN, host_slip, slip, without_password
from ...policy.lookup import Lookup
from .hosts import Host, pair
from .libpq_names import system_user
from .libpq_numbers import NAMES, Value, timeout, wrong

#: From no protection to full protection.
MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
#: The value of ``sslrootcert`` that means the CAs that the system trusts (libpq 16).
SYSTEM: Final = "system"

# As the settings call them; the others are called as libpq does.
_KEYS: Final = {"host": "HOST", "port": "PORT", "user": "USER", "dbname": "NAME"}


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
    def unix(self) -> bool:
        """Whether every host is reached over a Unix socket."""
        return _are_unix(self.hosts)

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
        """The CA file that libpq reads; "" if there is none.

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
        # As in :class:`_Safe`; libpq's default for the database is the user.
        database = without_password(user) if database == user else database
        user = without_password(user)
        if (user, database) == (self.user, self.database):
            return self
        sources = {**dict(self.sources), "user": "the option credentials"}
        return replace(self, user=user, database=database, sources=tuple(sources.items()))

    def source(self, name: str) -> str:
        """Where the value of a libpq parameter comes from."""
        return dict(self.sources).get(name, "libpq's default")


def target(
    alias: str,
    params: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    psycopg3: bool = False,
    added: Collection[str] = (),
) -> Target:
    """Return where an alias connects.

    Args:
        alias: its name in DATABASES.
        params: what goes to the driver's ``connect``: ``wrapper.get_connection_params()``.
        environ: the environment that libpq sees.
        psycopg3: whether that is the driver, which reads ``connect_timeout`` itself.
        added: the names of the parameters that the engine has added to the user's.

    Never raises: what makes no sense is told in ``problems``.
    """
    given = _Safe(params, environ, added)
    user = given.text("user", system_user())
    hosts = pair(given, given.problems, psycopg3=psycopg3)
    numbers = _numbers(given)
    garbled = dict(wrong(numbers, unix=_are_unix(hosts), psycopg3=psycopg3))
    given.problems.extend(garbled.values())
    sslrootcert = given.text("sslrootcert")
    usual = "verify-full" if sslrootcert == SYSTEM else "prefer"
    return Target(
        alias=alias,
        hosts=hosts,
        user=user,
        database=given.text("dbname", user),
        sslmode=given.choice("sslmode", usual, MODES),
        sslrootcert=sslrootcert,
        sslcert=given.text("sslcert"),
        sslkey=given.text("sslkey"),
        sslnegotiation=given.choice("sslnegotiation", "postgres", ("postgres", "direct")),
        require_auth=given.text("require_auth"),
        connect_timeout=_seconds(numbers, psycopg3=psycopg3),
        target_session_attrs=given.text("target_session_attrs", "any"),
        service=given.service,
        home=environ.get("HOME") or os.path.expanduser("~"),
        sources=tuple(given.sources.items()),
        problems=tuple(given.problems),
        garbled=tuple(garbled),
    )


def _are_unix(hosts: Sequence[Host]) -> bool:
    return bool(hosts) and all(host.unix for host in hosts)


class _Safe(Lookup):
    """Every value as it may be shown: what may hold a password is a problem instead."""

    def __init__(
        self, params: Mapping[str, object], environ: Mapping[str, str], added: Collection[str]
    ) -> None:
        super().__init__(params, environ, added)
        self.problems: list[str] = []
        self.service = self._shown("service", self.service)
        if self.missing and self.service != NOT_SHOWN:
            self.problems.append(
                f'The service "{self.service}"{self.place("service")} is in no service file: add '
                "it to ~/.pg_service.conf or to the file that the environment variable "
                "PGSERVICEFILE names."
            )

    def text(self, name: str, default: str = "") -> str:
        return self._shown(name, super().text(name, default))

    def _shown(self, name: str, value: str) -> str:
        key = _KEYS.get(name, name) + self.place(name)
        told = (host_slip if name in {"host", "hostaddr"} else slip)(key, value)
        if not told:
            return without_password(value) if name == "user" else value
        self.problems.append(told)
        return NOT_SHOWN

    def choice(self, name: str, default: str, known: Sequence[str]) -> str:
        """The value of a parameter that has to be one of a few."""
        value = self.text(name, default)
        if value in known:
            return value
        if value != NOT_SHOWN:  # which is reported already
            place, meant = self.sources[name], suggestion(value, known)
            self.problems.append(
                f'{name} is "{value}" (from {place}), which libpq does not know: {meant}'
            )
        return default


def _numbers(given: Lookup) -> dict[str, Value]:
    """What is set of the parameters that are whole numbers."""
    told = [(name, given.text(name)) for name in NAMES]
    return {
        name: Value(text, given.place(name))
        for name, text in told
        # An empty value is refused; one that is not shown was reported already.
        if name in given.sources and text != NOT_SHOWN
    }


def _seconds(numbers: Mapping[str, Value], *, psycopg3: bool) -> float | None:
    """``connect_timeout``; both drivers take 0 and less for no limit, psycopg 3 whatever is < 1."""
    if "connect_timeout" not in numbers:
        return None
    seconds = timeout(numbers["connect_timeout"].text, psycopg3=psycopg3)
    return float(seconds) if seconds is not None and seconds >= 1 else None
