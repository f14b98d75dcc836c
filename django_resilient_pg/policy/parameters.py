"""libpq parameters that notice a dead peer, added where the user has set none.

Numbers (measured on Linux 6.18): an idle or waiting connection whose path drops everything is
found dead after 32 s, a write into it fails after 31 s. TCP_USER_TIMEOUT overrides the keepalive
count, and also ends a live peer that stops reading for so long (COPY): it stays at 30 s or more.
Sources: libpq manual, section 34.1.2; tcp(7); kernel ``net/ipv4/tcp_timer.c``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ..providers import CONNECT_TIMEOUT, recognise_host

#: Seconds, a count, and (``tcp_user_timeout``) milliseconds, as libpq has them.
TCP_DEFAULTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "keepalives": 1,
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
)

# Versions of libpq: see default_root.
ENDS_PROCESSES: Final = frozenset({16, 17})
# Of the parameters above libpq reads only this one from the environment.
_ENVIRONMENT: Final = {"connect_timeout": "PGCONNECT_TIMEOUT"}
# Where libpq looks for the system-wide service file is compiled in: upstream's wheels and Debian,
# Red Hat, the default of a build with --sysconfdir=/etc. One that libpq does not read does no harm.
_SYSTEM_FOLDERS: Final = ("/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc")


def additions(conn_params: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, object]:
    """Return the libpq parameters to add to those of one connection.

    Finds the service file's section and the provider (by host name) for
    :func:`libpq_parameters`. Reads a file only if a service is named.
    """
    service = _service(conn_params, environ)
    return libpq_parameters(
        conn_params,
        environ=environ,
        service=service,
        connect_timeout=connect_timeout(conn_params, environ, service),
    )


def default_root(
    conn_params: Mapping[str, object], environ: Mapping[str, str], libpq: int
) -> dict[str, object]:
    """Return ``sslrootcert`` as the file that libpq would look for by itself, where that is safer.

    libpq 17 ends the process (SIGSEGV) when a server goes away in the middle of a TLS handshake
    after its certificate, and no file is named (measured; of 16 the source is the same, 18 does
    not). Whether the file is there means the same either way.

    Args:
        conn_params: what goes to the driver's ``connect``.
        environ: the environment that libpq will see.
        libpq: its version, as ``PQlibVersion`` has it.
    """
    if libpq // 10_000 not in ENDS_PROCESSES or os.name == "nt":
        return {}
    service = _service(conn_params, environ)
    if _setting("sslrootcert", "PGSSLROOTCERT", conn_params, environ, service):
        return {}
    home = environ.get("HOME") or os.path.expanduser("~")
    named = home.startswith("/") and not _only_unix_sockets(conn_params, environ, service)
    return {"sslrootcert": f"{home}/.postgresql/root.crt"} if named else {}


def session_attributes(conn_params: Mapping[str, object], environ: Mapping[str, str]) -> str:
    """Return the ``target_session_attrs`` that libpq will go by; "" where nobody has set it."""
    return setting("target_session_attrs", "PGTARGETSESSIONATTRS", conn_params, environ)


def direct_tls(conn_params: Mapping[str, object], environ: Mapping[str, str]) -> bool:
    """Whether libpq will begin with TLS, without asking the server for it (PostgreSQL 17)."""
    return setting("sslnegotiation", "PGSSLNEGOTIATION", conn_params, environ) == "direct"


def setting(
    name: str, variable: str, conn_params: Mapping[str, object], environ: Mapping[str, str]
) -> str:
    """Return what libpq will take for a parameter: "" where nobody has set it."""
    return _setting(name, variable, conn_params, environ, _service(conn_params, environ))


def _service(conn_params: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the section of the service file that libpq will read, or nothing."""
    name = _text(conn_params, "service") or environ.get("PGSERVICE", "")
    file = _text(conn_params, "servicefile")  # libpq 18
    if file:
        environ = {**environ, "PGSERVICEFILE": file}
    return (service_section(name, environ) if name else None) or {}


def libpq_parameters(
    conn_params: Mapping[str, object],
    *,
    environ: Mapping[str, str],
    service: Mapping[str, str],
    connect_timeout: float = CONNECT_TIMEOUT,
) -> dict[str, object]:
    """Return only the parameters to add: those that the user has set nowhere.

    Args:
        conn_params: what goes to the driver's ``connect``.
        environ: the environment that libpq will see.
        service: the section of the service file that libpq will read, or nothing.
        connect_timeout: seconds, per address; libpq takes whole ones.
    """
    wanted: dict[str, object] = {"connect_timeout": math.ceil(connect_timeout)}
    if not _only_unix_sockets(conn_params, environ, service):
        wanted |= TCP_DEFAULTS
    return {
        name: value
        for name, value in wanted.items()
        if conn_params.get(name) is None
        and name not in service
        and _ENVIRONMENT.get(name, "") not in environ
    }


def connect_timeout(
    conn_params: Mapping[str, object], environ: Mapping[str, str], service: Mapping[str, str]
) -> float:
    """Return the seconds to allow one attempt: more where a sleeping server must wake first."""
    hosts = _setting("host", "PGHOST", conn_params, environ, service).split(",")
    port = _setting("port", "PGPORT", conn_params, environ, service).partition(",")[0].strip()
    found = (recognise_host(host, int(port) if port.isdecimal() else None) for host in hosts)
    return max((one.connect_timeout for one in found if one), default=CONNECT_TIMEOUT)


def service_section(name: str, environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return the parameters of one section of the service file that libpq would use.

    As libpq does: the user's file (``PGSERVICEFILE``, else ``~/.pg_service.conf``), and if the
    section is not there the system's (in ``PGSYSCONFDIR``). No file, no section, or a file that
    cannot be read: ``None``; libpq itself will complain. LDAP lines are not followed.
    """
    for path in _service_files(environ):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        section = _section(text, name)
        if section is not None:
            return section
    return None


def _service_files(environ: Mapping[str, str]) -> list[Path]:
    home = environ.get("HOME") or os.path.expanduser("~")
    own = environ.get("PGSERVICEFILE") or os.path.join(home, ".pg_service.conf")
    system = environ.get("PGSYSCONFDIR")
    folders = (system,) if system else _SYSTEM_FOLDERS
    return [Path(own), *(Path(folder, "pg_service.conf") for folder in folders)]


def _section(text: str, name: str) -> dict[str, str] | None:
    """Parse as libpq's parseServiceFile does: the first value of a key wins, no quoting."""
    found: dict[str, str] | None = None
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if found is not None:
                break
            # libpq looks at no more than the name and the bracket behind it.
            found = {} if line.startswith(f"[{name}]") else None
        elif found is not None and "=" in line:
            key, _, value = line.partition("=")
            found.setdefault(key, value)
    return found


def _only_unix_sockets(
    conn_params: Mapping[str, object], environ: Mapping[str, str], service: Mapping[str, str]
) -> bool:
    """Whether libpq will use Unix sockets for every host of the list."""
    if _setting("hostaddr", "PGHOSTADDR", conn_params, environ, service).strip(","):
        return False
    hosts = _setting("host", "PGHOST", conn_params, environ, service).split(",")
    return all(host[:1] in {"", "/", "@"} for host in hosts)


def _setting(
    name: str,
    variable: str,
    conn_params: Mapping[str, object],
    environ: Mapping[str, str],
    service: Mapping[str, str],
) -> str:
    """Return what libpq will take: parameter, service file, environment, in this order.

    What is set, if only to nothing, hides what comes after it.
    """
    given = conn_params.get(name)
    return service.get(name, environ.get(variable, "")) if given is None else str(given)


def _text(conn_params: Mapping[str, object], name: str) -> str:
    value = conn_params.get(name)
    return "" if value is None else str(value)
