"""Prints the report that docs/checkdbconn.rst shows: ``python -m testproject.sample``.

It is about a project before it takes this engine: Django's own, kept connections, keepalives as the
kernel has them, encryption without verification, and a server that ends idle sessions.
"""

from __future__ import annotations

import io
import os

import django
from django.core.management import call_command
from django.test import override_settings

from testproject.comparison import STOCK
from testproject.postgres import Server

#: The lines are of the newest PostgreSQL that the tests run on.
VERSION = "18"


def sample() -> str:
    """The report on alias "default", as ``manage.py checkdbconn --fix`` prints it."""
    from django.db import connections

    with Server(VERSION) as server:
        server.configure(idle_session_timeout="5min")
        entry = server.database(engine=STOCK, CONN_MAX_AGE=600)
        entry["OPTIONS"] = {"sslmode": "require", "sslrootcert": str(server.ca_file)}
        connections["default"].close()  # made, if nobody in this thread has used it yet
        kept = connections.settings["default"]
        connections.settings["default"] = {**kept, **entry}
        del connections["default"]
        try:
            out = io.StringIO()
            with override_settings(MIDDLEWARE=[]):
                call_command(
                    "checkdbconn", database=["default"], fix=True, stdout=out, no_color=True
                )
        finally:
            connections["default"].close()
            del connections["default"]
            connections.settings["default"] = kept
    return out.getvalue().rstrip()


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"
    django.setup()
    print(sample())
