"""What can be broken: a primary with a standby, and a path to them for each application."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

from testproject.lab.sides import SIDES
from testproject.postgres import Server
from testproject.proxy import Proxy
from testproject.standby import QUICK, SYNCHRONOUS, Standby, wait_followed


class World:
    """The servers and the paths, from entering to leaving the context."""

    primary: Server
    standby: Standby | None = None

    def __init__(self) -> None:
        self.proxies: dict[str, Proxy] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start everything."""
        with self._stack:
            self.primary = self._stack.enter_context(Server(settings=QUICK))
            # What looks after the lab is no part of it.
            superuser = self.primary.superuser
            self.primary.execute(f"ALTER ROLE {superuser} SET idle_session_timeout = 0")
            for side in SIDES:
                self.primary.create_database(side.name)
                proxy = self._stack.enter_context(Proxy(self.primary.port))
                self.proxies[side.name] = proxy
            self.add_standby()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove everything."""
        self._stack.close()

    def add_standby(self) -> None:
        """Copy the primary; from then on a COMMIT waits until the copy has it."""
        self.standby = self._stack.enter_context(Standby(self.primary, settings=QUICK))
        wait_followed(self.primary)
        self.primary.configure(**SYNCHRONOUS)

    def fail_over(self) -> None:
        """Crash the primary, promote the standby, and let both paths lead there."""
        old, new = self.primary, self.standby
        if new is None:
            raise RuntimeError("there is no standby to promote")
        self.standby = None
        old.stop("immediate")
        new.execute("SELECT pg_promote(wait => true)")
        self.primary = new
        for proxy in self.proxies.values():
            proxy.target = (new.address, new.port)
        old.close()

    def backends(self) -> list[int]:
        """The sessions of both applications."""
        return [pid for side in SIDES for pid in self.primary.backends(side.name)]
