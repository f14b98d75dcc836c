"""A network namespace with a PostgreSQL in it, and packets that vanish on the way there.

The rules are in the namespace and go away with it; nothing of the machine's own network is changed
but one pair of virtual interfaces. A test that makes one needs what ``needs.NAMESPACE`` says.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Literal, Self

from testproject import guard
from testproject.postgres import Server
from tests import needs

# drop: packets vanish, as after a power loss or in a NAT that forgot the flow. reset: a firewall
# that answers with RST. large: full packets of the server vanish, as on a link with a smaller MTU
# behind a firewall that drops ICMP.
Fault = Literal["drop", "reset", "large"]
TARGETS = {"drop": ["DROP"], "reset": ["REJECT", "--reject-with", "tcp-reset"]}
FULL = ["--match", "length", "--length", "1450:65535"]

PREFIX = "drpg"
_numbers = count(1)


class Namespace:
    """A namespace, reached at ``inner`` (in it) from ``outer`` (here) over virtual Ethernet.

    The addresses are of 192.0.2.0/24 (RFC 5737), which is never used by a real network.
    """

    def __init__(self) -> None:
        needs.check_named(*needs.NAMESPACE)
        number = next(_numbers)
        self.name = f"{PREFIX}-{os.getpid()}-{number}"
        # Interface names have 15 characters at most.
        self.link = f"{PREFIX}{os.getpid() % 100000}x{number}"
        self.outer, self.inner = _free_addresses(os.getpid() * 7 + number)

    def create(self) -> None:
        """Build the namespace; raises RuntimeError with what ip said."""
        _remove_orphans()
        peer = f"{self.link}p"
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", self.link, "type", "veth", "peer", peer, "netns", self.name)
        _run("ip", "address", "add", f"{self.outer}/30", "dev", self.link)
        _run("ip", "link", "set", self.link, "up")
        self.run("ip", "address", "add", f"{self.inner}/30", "dev", peer)
        self.run("ip", "link", "set", peer, "up")
        self.run("ip", "link", "set", "lo", "up")

    def remove(self) -> None:
        """Remove the namespace, with it the interfaces and the rules."""
        _run("ip", "link", "delete", self.link)  # the kernel would take its time
        _run("ip", "netns", "delete", self.name)

    def run(self, *command: str) -> str:
        """Run a command in the namespace and return what it printed."""
        program, *arguments = command
        return _run(*self.launcher, needs.program(program), *arguments)

    @property
    def launcher(self) -> tuple[str, ...]:
        """What to put before a command to run it in the namespace."""
        return (needs.program("ip"), "netns", "exec", self.name)

    @contextmanager
    def forgetting(self, ports: Iterable[int]) -> Iterator[None]:
        """Packets of these clients vanish in the block, both ways; other connections pass."""
        rules = [
            [chain, "--protocol", "tcp", f"--{end}", str(port), "--jump", "DROP"]
            for port in ports
            for chain, end in (("INPUT", "sport"), ("OUTPUT", "dport"))
        ]
        for rule in rules:
            self.run("iptables", "--wait", "--insert", *rule)
        try:
            yield
        finally:
            for rule in rules:
                self.run("iptables", "--wait", "--delete", *rule)

    @contextmanager
    def server(self, **options: str) -> Iterator[Server]:
        """Run a PostgreSQL in the namespace, with a certificate for its address too."""
        with Server(address=self.inner, launcher=self.launcher, settings=options) as running:
            running.host = self.inner
            yield running

    def begin(self, fault: Fault, port: int) -> None:
        """Let all packets to and from this port vanish (or be answered with RST)."""
        for rule in self._rules(fault, port):
            self.run("iptables", "--wait", "--insert", *rule)

    def end(self, fault: Fault, port: int) -> None:
        """Let packets pass again; what was sent meanwhile is sent again by the kernels."""
        for rule in self._rules(fault, port):
            self.run("iptables", "--wait", "--delete", *rule)

    @contextmanager
    def fault(self, port: int, fault: Fault = "drop") -> Iterator[None]:
        """Have the fault in the block."""
        self.begin(fault, port)
        try:
            yield
        finally:
            self.end(fault, port)

    @contextmanager
    def translated(self, port: int, to: int, *, source: bool = False) -> Iterator[None]:
        """Have connections to ``port`` arrive at ``to`` (DNAT); ``source``: from another port.

        That is SNAT; the ports are above those that the kernel gives to clients (60999 at most).
        """
        tcp = ["--protocol", "tcp", "--match", "tcp"]
        rules = [["PREROUTING", *tcp, "--dport", str(port), "--jump", "REDIRECT"]]
        rules[0] += ["--to-ports", str(to)]
        if source:
            rules.append(["INPUT", *tcp, "--dport", str(to), "--jump", "SNAT"])
            rules[1] += ["--to-source", f"{self.outer}:61001-61999"]
        for rule in rules:
            self.run("iptables", "--wait", "--table", "nat", "--append", *rule)
        try:
            yield
        finally:
            for rule in rules:
                self.run("iptables", "--wait", "--table", "nat", "--delete", *rule)

    def dropped(self) -> int:
        """Return how many packets the rules have caught so far."""
        listing = self.run("iptables", "--wait", "--list", "--numeric", "--verbose", "--exact")
        lines = (line.split() for line in listing.splitlines())
        return sum(int(fields[0]) for fields in lines if fields[2:3] in (["DROP"], ["REJECT"]))

    def __enter__(self) -> Self:
        self.create()
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _rules(self, fault: Fault, port: int) -> list[list[str]]:
        ours = ["OUTPUT", "--protocol", "tcp", "--sport", str(port)]
        if fault == "large":
            return [[*ours, *FULL, "--jump", "DROP"]]
        inwards = ["INPUT", "--protocol", "tcp", "--dport", str(port), "--jump", *TARGETS[fault]]
        outwards = [*ours, "--jump", "DROP"]
        return [inwards, outwards] if fault == "drop" else [inwards]


def _free_addresses(start: int) -> tuple[str, str]:
    """The first two that no namespace of another test run has."""
    taken = _run("ip", "-o", "-4", "address")
    for step in range(63):
        base = 4 * ((start + step) % 63)
        outer, inner = f"192.0.2.{base + 1}", f"192.0.2.{base + 2}"
        if f" {outer}/" not in taken:
            return outer, inner
    raise RuntimeError("all addresses of 192.0.2.0/24 are taken")


def _remove_orphans() -> None:
    """Remove the namespaces of test runs that were killed."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        prefix, _, rest = name.partition("-")
        owner = rest.partition("-")[0]
        if prefix == PREFIX and owner.isdecimal() and not guard.alive(int(owner)):
            _run("ip", "netns", "delete", name)


def _run(*command: str) -> str:
    program, *arguments = command
    command = (needs.program(program), *arguments)
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command)}: {answer.stderr.strip()}")
    return answer.stdout
