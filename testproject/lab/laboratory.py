"""Brings the lab to life: the world, both applications, what is broken, and the accounts."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import Any, Self

from testproject import environment
from testproject.comparison import OURS, ROOT
from testproject.lab.accounts import FORGET, FOUND, WATCHED, Account
from testproject.lab.faults import FAULTS, Fault
from testproject.lab.feed import Feed
from testproject.lab.sides import SIDES, Side
from testproject.lab.world import World

#: Seconds from one account to the next.
INTERVAL = 1.0
READY = 60.0


class Busy(Exception):
    """Another fault is under way."""


class Laboratory:
    """Everything behind the page, from entering to leaving the context.

    ``pace``: faults last so many times as long as they say.
    """

    def __init__(self, pace: float = 1.0) -> None:
        self.feed = Feed()
        self._pace = pace
        self._world = World()
        self._accounts = {side.name: Account() for side in SIDES}
        self._stack = ExitStack()
        self._breaking = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        """Start everything; returns when both applications are under load."""
        with self._stack:
            self._stack.enter_context(self._world)
            self._stack.callback(self._wait_for_the_last_fault)
            applications = [self._start(side) for side in SIDES]
            for application in applications:
                if not application.wait(READY):
                    raise SystemExit("An application of the lab did not start.")
            accountant = threading.Thread(target=self._keep_accounts, daemon=True)
            accountant.start()
            self._stack.callback(accountant.join)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End everything, and leave nothing behind."""
        self._over.set()
        self._stack.close()

    def break_it(self, name: str) -> None:
        """Begin a fault, and return at once.

        Raises:
            Busy: another one is under way.
        """
        if not self._breaking.acquire(blocking=False):
            raise Busy
        threading.Thread(target=self._break, args=[FAULTS[name]], daemon=True).start()

    def _break(self, fault: Fault) -> None:
        seconds = fault.seconds * self._pace
        try:
            self.feed.begin(fault.name, f"{fault.label}: {fault.about}.", seconds)
            with fault.act(self._world):
                self._over.wait(seconds)
            self.feed.end(f"{fault.label}: over.")
            if fault.after and not self._over.is_set():
                fault.after(self._world)
                self.feed.write("INFO", "A new standby follows the primary.")
        except Exception as error:  # the lab's own: said where everything is said
            self.feed.write("ERROR", f"{fault.label} did not work: {type(error).__name__}: {error}")
        finally:
            self.feed.ready(standby=self._world.standby is not None)
            self._breaking.release()

    def _wait_for_the_last_fault(self) -> None:
        self._over.set()
        with self._breaking:
            pass

    # The applications

    def _start(self, side: Side) -> threading.Event:
        process = subprocess.Popen(
            [sys.executable, "-m", "testproject.lab.application"],
            env=self._environment(side),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl+C is for the lab; the end of the pipe tells the child
        )
        running = threading.Event()
        reader = threading.Thread(target=self._read, args=[side.name, process, running])
        reader.start()
        self._stack.callback(reader.join)
        self._stack.callback(process.kill)
        return running

    def _environment(self, side: Side) -> dict[str, str]:
        proxy = self._world.proxies[side.name]
        # Without TLS the proxy can tell a COMMIT from other messages.
        entry = self._world.primary.database(
            side.name,
            engine=side.engine,
            options={"sslmode": "disable", "sslrootcert": "", **side.options},
            HOST=proxy.address,
            PORT=str(proxy.port),
            CONN_MAX_AGE=60,
            CONN_HEALTH_CHECKS=True,
        )
        kept = {name: os.environ[name] for name in os.environ if not name.startswith(OURS)}
        return {**kept, **environment.variables(entry)}

    def _read(self, side: str, process: subprocess.Popen[str], running: threading.Event) -> None:
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                report: dict[str, Any] = json.loads(line)
                for _, _, answered, token in report["done"]:
                    if answered and token:
                        self._accounts[side].acknowledge(token)
                self.feed.take(side, report)
                running.set()
        if not self._over.is_set():
            self.feed.write("ERROR", f"The application {side} has ended.")

    # The accounts

    def _keep_accounts(self) -> None:
        while not self._over.wait(INTERVAL):
            for name, account in self._accounts.items():
                # While the server is down nothing can be said.
                with contextlib.suppress(Exception):
                    self._account(name, account)

    def _account(self, name: str, account: Account) -> None:
        due = account.due()
        with self._world.primary.session(name) as run:
            rows = {token: (orders, lines) for token, orders, lines in run(FOUND)}
            run(FORGET, [WATCHED * 2])
        account.compare(due, rows)
        self.feed.account(name, doubled=len(account.doubled), lost=len(account.lost))
