"""What libpq will take for a parameter, and where that comes from.

Order of precedence (libpq manual, "Parameter Key Words", "Environment Variables", "The Connection
Service File"): the parameter, the service file's section, the environment, libpq's default.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

#: The environment variables of those parameters that this package asks for.
VARIABLES: Final = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "require_auth": "PGREQUIREAUTH",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}
#: Where the values come from that this package's engine adds.
ENGINE: Final = "the defaults of the engine django_resilient_pg"
# Where libpq looks for the system-wide service file is compiled in: upstream's wheels and Debian,
# Red Hat, the default of a build with --sysconfdir=/etc. One that libpq does not read does no harm.
_SYSTEM_FOLDERS: Final = ("/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc")


class Lookup:
    """The values set anywhere, each looked up as libpq does.

    ``added``: the names of the parameters that the engine has set, not the user.
    """

    def __init__(
        self, params: Mapping[str, object], environ: Mapping[str, str], added: Collection[str] = ()
    ) -> None:
        self.params, self.environ, self._added = params, environ, added
        self.sources: dict[str, str] = {}
        own = params.get("service")
        self.service = environ.get("PGSERVICE", "") if own is None else str(own)
        if own is None and self.service:
            self.sources["service"] = "the environment variable PGSERVICE"
        file = str(params.get("servicefile") or "")  # libpq 18
        place = {**environ, "PGSERVICEFILE": file} if file else environ
        found = service_section(self.service, place) if self.service else None
        self.missing = bool(self.service) and found is None
        self.section = found or {}

    def text(self, name: str, default: str = "") -> str:
        """The value of one parameter; what is set to nothing hides what comes after it."""
        value, source = self._find(name)
        if source:
            self.sources[name] = source
        return value or default

    def has(self, name: str) -> bool:
        """Whether it is set anywhere, if only to nothing."""
        return bool(self._find(name)[1])

    def place(self, name: str) -> str:
        """Where a value comes from, to be put behind it; "" if that is DATABASES."""
        source = self.sources.get(name, "DATABASES")
        return "" if source == "DATABASES" else f" (from {source})"

    def _find(self, name: str) -> tuple[str, str]:
        if self.params.get(name) is not None:
            return str(self.params[name]), ENGINE if name in self._added else "DATABASES"
        if name in self.section:
            return self.section[name], f'the service "{self.service}"'
        variable = VARIABLES.get(name, "")  # not every parameter has one
        if variable in self.environ:
            return self.environ[variable], f"the environment variable {variable}"
        # Older than PGSSLMODE, and still obeyed by libpq.
        if name == "sslmode" and self.environ.get("PGREQUIRESSL", "")[:1] == "1":
            return "require", "the environment variable PGREQUIRESSL"
        return "", ""


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
