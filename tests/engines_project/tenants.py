"""Two tenants in turn while sessions end at random moments; print what was seen, as JSON.

``python -m tenants KILLS``
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import django
from django.db import Error, connection, connections, transaction
from ends import admin

TENANTS = ("t1", "t2")
READ = "SELECT DISTINCT tenant FROM thing"
WRITE = "INSERT INTO thing (tenant) VALUES (%s)"
SESSIONS = """SELECT pid FROM pg_stat_activity WHERE datname = current_database()
    AND pid <> pg_backend_pid() AND application_name = 'under test'"""


class Killer(threading.Thread):
    """Ends the session under test again and again, a random number of attempts after the last time.

    However long these take: on a busy machine as many get through as on an idle one.
    """

    def __init__(self, kills: int) -> None:
        super().__init__(daemon=True)
        self.left = kills
        self.attempts = 0

    def run(self) -> None:
        while self.left:
            due = self.attempts + random.choice((0, 1, 1, 2, 2, 3))
            while self.attempts < due:
                time.sleep(0.0005)
            time.sleep(random.uniform(0, 0.003))
            for (process,) in admin(SESSIONS):
                self.left -= bool(self.left and admin("SELECT pg_terminate_backend(%s)", [process]))
        connections["admin"].close()


def fetch(sql: str, params: Any = None) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return {row[0] for row in cursor.fetchall()} if cursor.description else set()


def read(tenant: str) -> set[str]:
    return fetch(READ)


def write(tenant: str) -> set[str]:
    fetch(WRITE, [tenant])
    return {tenant}


def read_in_transaction(tenant: str) -> set[str]:
    with transaction.atomic():
        return fetch(READ) | fetch(READ)


def write_in_transaction(tenant: str) -> set[str]:
    with transaction.atomic():
        fetch(WRITE, [tenant])
        with transaction.atomic():
            fetch(WRITE, [tenant])
        return fetch(READ)


def rolled_back(tenant: str) -> set[str]:
    with transaction.atomic():
        fetch(WRITE, ["rolled back"])
        transaction.set_rollback(True)
    return fetch(READ)


def server_side(tenant: str) -> set[str]:
    with connection.chunked_cursor() as cursor:
        cursor.execute(READ)
        return {row[0] for row in cursor.fetchall()}


WAYS = (read, write, read_in_transaction, write_in_transaction, rolled_back, server_side)


def attempt(seen: Counter[str]) -> None:
    """One way of using the database as one tenant; a failure is not wrong, another's row is."""
    tenant, way = random.choice(TENANTS), random.choice(WAYS)
    connection.set_schema(tenant)  # type: ignore[attr-defined]
    try:
        found = way(tenant)
    except (Error, connection.Database.Error):  # type: ignore[attr-defined]
        # The second: django-tenants lets the driver's own through.
        seen[f"{way.__name__} failed"] += 1
        connection.close()
        return
    seen[way.__name__] += 1
    if found != {tenant}:
        seen["wrong"] += 1


def main() -> None:
    django.setup()
    killer = Killer(int(sys.argv[1]))
    killer.start()
    seen: Counter[str] = Counter()
    deadline = time.monotonic() + 100
    while killer.is_alive() and time.monotonic() < deadline:
        attempt(seen)
        killer.attempts += 1
    for tenant in ("public", *TENANTS):
        seen[f"strange in {tenant}"] = len(
            admin(f"SELECT 1 FROM {tenant}.thing WHERE tenant <> %s", [tenant])
        )
    print(json.dumps({**seen, "kills left": killer.left}))


if __name__ == "__main__":
    main()
