"""What libpq will take for a parameter, and where that comes from.

Order of precedence (libpq manual, "Parameter Key Words", "Environment Variables", "The Connection
Service File"): the parameter, the service file's section, the environment, libpq's default.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Collection, Mapping
from typing import Final

from ...policy import parameters

if sys.platform != "win32":
    import pwd

_VARIABLES: Final = {
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
}


#: What libpq takes (manual, "Parameter Key Words"), to tell what a misspelt name was meant to be.
PARAMETERS: Final = (
    *_VARIABLES,
    *(
        "application_name channel_binding client_encoding fallback_application_name gssdelegation"
        " gssencmode gsslib keepalives keepalives_count keepalives_idle keepalives_interval"
        " krbsrvname load_balance_hosts max_protocol_version min_protocol_version options passfile"
        " password replication requirepeer scram_client_key scram_server_key service servicefile"
        " ssl_max_protocol_version ssl_min_protocol_version sslcertmode sslcompression sslcrl"
        " sslcrldir sslkeylogfile sslpassword sslsni tcp_user_timeout"
    ).split(),
)


#: Where the values come from that this package's engine adds.
ENGINE: Final = "the defaults of the engine django_resilient_pg"


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
        found = parameters.service_section(self.service, place) if self.service else None
        self.missing = bool(self.service) and found is None
        self.section = found or {}

    def text(self, name: str, default: str = "") -> str:
        """The value of one parameter; what is set to nothing hides what comes after it."""
        value, source = self._find(name)
        if source:
            self.sources[name] = source
        return value or default

    def place(self, name: str) -> str:
        """Where a value comes from, to be put behind it; "" if that is DATABASES."""
        source = self.sources.get(name, "DATABASES")
        return "" if source == "DATABASES" else f" (from {source})"

    def _find(self, name: str) -> tuple[str, str]:
        if self.params.get(name) is not None:
            return str(self.params[name]), ENGINE if name in self._added else "DATABASES"
        if name in self.section:
            return self.section[name], f'the service "{self.service}"'
        variable = _VARIABLES.get(name, "")  # not every parameter has one
        if variable in self.environ:
            return self.environ[variable], f"the environment variable {variable}"
        # Older than PGSSLMODE, and still obeyed by libpq.
        if name == "sslmode" and self.environ.get("PGREQUIRESSL", "")[:1] == "1":
            return "require", "the environment variable PGREQUIRESSL"
        return "", ""


def system_user() -> str:
    """The account's name, which libpq takes where no user is given."""
    if sys.platform == "win32":
        return getpass.getuser()
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # an account without a name, as containers have them: libpq refuses
        return ""
