"""A project that shows all that ``status/`` can show, for :mod:`scripts.status_check`.

It is set up as docs/health.rst says, with users and sessions in its database. "default" has lost
connections, "reports" has a pool with a connection that is held for too long, and nothing listens
where "replica" is said to be.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import django
from django.conf import settings
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.db import OperationalError, connection, connections, transaction
from django.urls import include, path

from testproject.cluster import free_port
from testproject.postgres import Server

TOKEN: Final = "a-token-of-this-check-alone"
LEAK_AFTER: Final = 0.2  # seconds
PATIENCE: Final = 30.0  # seconds

urlpatterns = [path("health/", include("django_resilient_pg.urls"))]


@dataclass
class Site:
    """What a browser needs: the address of the page, and the session of somebody of the staff."""

    server: Server
    address: str
    session: str


class Handler(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what goes wrong is seen by the browser."""


@contextmanager
def site() -> Iterator[Site]:
    """Serve it, with everything in place that the page can show."""
    with ExitStack() as stack:
        server = stack.enter_context(Server())
        configure(server)
        # A thread does what a request would do: Playwright has an event loop in this one.
        worker = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="shop"))
        session = worker.submit(prepared, server).result()
        stack.callback(lambda: worker.submit(connections.close_all).result())
        stack.enter_context(held("reports"))
        port = stack.enter_context(served())
        yield Site(server, f"http://127.0.0.1:{port}/health/status/", session)


def configure(server: Server) -> None:
    """Set Django up."""
    pool = {"pool": {"min_size": 1, "max_size": 2}, "resilience": {"pool_leak_after": LEAK_AFTER}}
    impatient = {"resilience": {"retry_deadline": 0.1}}
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"],
        DATABASES={
            "default": server.database(CONN_MAX_AGE=None),
            "reports": server.database(options=pool),
            "replica": server.database(PORT=str(free_port()), options=impatient),
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django_resilient_pg",
        ],
        LOGGING_CONFIG=None,
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django_resilient_pg.middleware.RequestRetryMiddleware",
        ],
        RESILIENT_PG_READY_DEADLINE=PATIENCE / 10,
        RESILIENT_PG_STATUS_TOKEN=TOKEN,
        ROOT_URLCONF=__name__,
        SECRET_KEY="of a check on this machine",
        USE_TZ=True,
    )
    django.setup()
    # The pictures of the documentation have no machine's name.
    socket.gethostname = lambda: "web-1"


def prepared(server: Server) -> str:
    """Lose connections, and let somebody of the staff log in; returns the key of the session."""
    from django.contrib.auth.models import User
    from django.test import Client

    call_command("migrate", verbosity=0)
    server.terminate_all()
    with connection.cursor() as cursor:  # the loss is healed
        cursor.execute("SELECT 1")
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            server.terminate_all()
            cursor.execute("SELECT 1")
    except OperationalError:
        pass  # this one has surfaced
    client = Client()
    client.force_login(User.objects.create_user("operator", is_staff=True))
    return str(client.cookies[settings.SESSION_COOKIE_NAME].value)


@contextmanager
def held(alias: str) -> Iterator[None]:
    """Hold a connection of the pool for longer than ``pool_leak_after``."""
    has, done = threading.Event(), threading.Event()

    def hold() -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT count(*) FROM auth_user")
        has.set()
        done.wait()
        connections[alias].close()

    holder = threading.Thread(target=hold, name="report-of-the-day")
    holder.start()
    try:
        if not has.wait(PATIENCE):
            raise TimeoutError(f'"{alias}" has lent no connection within {PATIENCE:g} s')
        yield
    finally:
        done.set()
        holder.join()


@contextmanager
def served() -> Iterator[int]:
    """Serve the project on a free port, which is returned."""
    httpd = ThreadedWSGIServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.set_app(get_wsgi_application())
    thread = threading.Thread(target=httpd.serve_forever, name="serving")
    thread.start()
    try:
        yield httpd.server_port
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
