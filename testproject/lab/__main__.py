"""Break a real database and watch two applications: ``python -m testproject.lab``.

A page on this machine alone shows the same load on Django's engine and on this one, and has buttons
that break the PostgreSQL server or the path to it. Ctrl-C ends everything.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

import django
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application

from testproject.cluster import free_port

ADDRESS = "127.0.0.1"
PORT = 8765


def server(port: int | None) -> ThreadedWSGIServer:
    """The web server of the page; without a number on the usual port, or on one that is free."""
    try:
        made = ThreadedWSGIServer((ADDRESS, PORT if port is None else port), WSGIRequestHandler)
    except OSError as error:
        if port is not None:
            raise SystemExit(f"Port {port} cannot be used: {error.strerror}.") from None
        made = ThreadedWSGIServer((ADDRESS, free_port()), WSGIRequestHandler)
    made.set_app(get_wsgi_application())
    return made


def lab(port: int | None, pace: float) -> None:
    """Start everything, print the address, and serve until somebody ends it."""
    from testproject.lab import views
    from testproject.lab.laboratory import Laboratory

    with server(port) as web:
        print("Starting PostgreSQL with a standby, and two applications ...", flush=True)
        with Laboratory(pace) as laboratory:
            views.running.append(laboratory)
            print(f"Outage lab: http://{ADDRESS}:{web.server_port}/", flush=True)
            print("Ctrl-C ends it and removes everything.", flush=True)
            web.serve_forever()


def main() -> None:
    """Parse the command line and run; Ctrl-C and SIGTERM leave nothing behind."""
    parser = argparse.ArgumentParser(prog="python -m testproject.lab", description=__doc__)
    parser.add_argument("--port", type=int, help=f"of the page; {PORT}, or a free one")
    parser.add_argument("--pace", type=float, default=1.0, help="0.5: faults last half as long")
    given = parser.parse_args()
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.lab.settings"
    django.setup()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        lab(given.port, given.pace)
    except KeyboardInterrupt:
        print("\nStopped.")
        sys.exit(130)


if __name__ == "__main__":
    main()
