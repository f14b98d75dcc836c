"""The names of libpq's parameters, and the one that it takes for the user where none is given."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Final

from ...policy.lookup import VARIABLES

if sys.platform != "win32":
    import pwd

#: What libpq takes (manual, "Parameter Key Words"), to tell what a misspelt name was meant to be.
PARAMETERS: Final = (
    *VARIABLES,
    *(
        "application_name channel_binding client_encoding fallback_application_name gssdelegation"
        " gssencmode gsslib keepalives keepalives_count keepalives_idle keepalives_interval"
        " krbsrvname max_protocol_version min_protocol_version options passfile"
        " password replication requirepeer scram_client_key scram_server_key service servicefile"
        " ssl_max_protocol_version ssl_min_protocol_version sslcertmode sslcompression sslcrl"
        " sslcrldir sslkeylogfile sslpassword sslsni tcp_user_timeout"
    ).split(),
)


def system_user() -> str:
    """The account's name, which libpq takes where no user is given."""
    if sys.platform == "win32":
        return getpass.getuser()
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # an account without a name, as containers have them: libpq refuses
        return ""
