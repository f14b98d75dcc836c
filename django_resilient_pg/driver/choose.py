"""Which driver a connection is of."""

from __future__ import annotations

from typing import Any

from .link import Link


def libpq_version(driver: Any) -> int:
    """The version of the libpq in use, as ``PQlibVersion`` has it."""
    if hasattr(driver, "pq"):
        return int(driver.pq.version())
    return int(driver.extensions.libpq_version())


def link_to(connection: Any, alias: str = "") -> Link:
    """The link for a driver's connection object; a new one is of this alias."""
    if not hasattr(connection, "pgconn"):
        from .psycopg2 import Psycopg2Link

        return Psycopg2Link(connection, alias)
    from .psycopg3 import Psycopg3Link

    # One link for the life of a connection: a pool hands the same one out again and again, and
    # each link adds a notice handler.
    link = getattr(connection, "_django_resilient_pg_link", None)
    if not isinstance(link, Psycopg3Link):
        link = connection._django_resilient_pg_link = Psycopg3Link(connection, alias)
    return link
