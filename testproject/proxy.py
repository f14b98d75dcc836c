"""A TCP proxy on loopback that can refuse, cut, fall silent, lose packets and come back.

One thread does everything, so an order is in force when the call that gave it returns.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Self

from testproject.cluster import free_port
from testproject.flows import CHUNK, DelayedFlow, End, Flow, Pair, lose_packets
from testproject.flows import end as _end
from testproject.sockets import wait_ended

# pass: forward. refuse: nobody listens. cut: accept, end at once, as a balancer without backends.
# deaf: connections come about (the kernel sees to that), but nothing is read or forwarded.
# mute: what clients send reaches the server, its answers do not come back.
Mode = Literal["pass", "refuse", "cut", "deaf", "mute"]
# Where a message meets the cut: before the server sees it, after it, or its answer on the way back.
Point = Literal["before", "after", "answer"]

PATIENCE = 10.0


class Proxy:
    """Listens on a port of its own and forwards to ``host``:``port``.

    ``idle_timeout``: seconds without a byte in either direction after which a connection is ended
    as ``idle_end`` says, as HAProxy ("close") and firewalls ("reset") do; None: never. ``delay``:
    seconds that each piece is under way, in each direction; modes and cuts at messages are not for
    such a proxy.
    """

    address = "127.0.0.1"

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        idle_timeout: float | None = None,
        idle_end: End = "close",
        delay: float = 0.0,
    ) -> None:
        self.target = (host, port)
        self.port = free_port()
        self.accepted = 0
        self.mode: Mode = "pass"
        self._idle_timeout, self._idle_end, self._delay = idle_timeout, idle_end, delay
        self._pairs: list[Pair] = []
        self._orders: list[Callable[[], None]] = []
        self._messages, self._point = 0, ""
        self._text = b""
        self._hit: Pair | None = None
        self._leaves = False
        self._left: list[socket.socket] = []
        self._bell, self._ear = socket.socketpair()
        self._listener: socket.socket | None = None
        self._listen()
        self._running = True
        self._thread = threading.Thread(target=self._run, name=f"proxy {self.port}", daemon=True)
        self._thread.start()

    # Orders

    @property
    def open(self) -> int:
        """How many connections are forwarded."""
        return len(self._pairs)

    @property
    def messages_left(self) -> int:
        """How many messages are still to come before the cut that was planned."""
        return self._messages

    def set_mode(self, mode: Mode) -> None:
        """Change the mode; what is forwarded already goes on under "refuse" and "cut"."""
        self._order(lambda: self._enter(mode))

    def cut(self, how: End = "reset") -> int:
        """End all connections on both sides; return how many there were, once clients know it."""
        clients: list[int] = []

        def end() -> None:
            clients.extend(pair.client_port for pair in self._pairs)
            self._end_all(how)

        self._order(end)
        if not wait_ended(clients, self.port, PATIENCE):
            raise TimeoutError(f"a client has not heard of the cut within {PATIENCE:g} s")
        return len(clients)

    def cut_clients(self, how: End = "reset") -> int:
        """End all connections on the client's side alone; return how many there were.

        The server does not notice, as behind a NAT gateway that has forgotten them.
        """
        count = len(self._pairs)

        def leave() -> None:
            for pair in self._pairs:
                _end(pair.there.source, how)
                self._left.append(pair.there.sink)
            self._pairs.clear()

        self._order(leave)
        return count

    def let_go(self) -> None:
        """End what :meth:`cut_clients` and the like have left open towards the server."""

        def end() -> None:
            while self._left:
                _end(self._left.pop(), "reset")

        self._order(end)

    def drop(self) -> int:
        """From now on lose every packet of the present connections; return how many there are.

        Nobody is told, as behind a firewall that has forgotten them: what either side sends is not
        even acknowledged. New connections are forwarded. :meth:`let_go` ends what is left.
        """
        count = len(self._pairs)

        def deafen() -> None:
            for pair in self._pairs:
                for each in (pair.there.source, pair.there.sink):
                    lose_packets(each)
                    self._left.append(each)
            self._pairs.clear()

        self._order(deafen)
        return count

    def cut_at(
        self, message: int, point: Point, *, leaves: bool = False, containing: bytes = b""
    ) -> None:
        """Cut at a message that is still to come from a client: 1 is the next one.

        A message is what one ``send`` of the client brings: libpq sends a short query at once.
        ``leaves``: the server does not notice, as with :meth:`cut_clients`. ``containing``: other
        messages are not counted; over TLS none can be told from another.
        """

        def plan() -> None:
            self._messages, self._point, self._leaves = message, point, leaves
            self._text, self._hit = containing, None

        self._order(plan)

    @contextmanager
    def during(self, mode: Mode) -> Iterator[None]:
        """Have this mode in the block, and "pass" after it."""
        self.set_mode(mode)
        try:
            yield
        finally:
            self.set_mode("pass")

    @contextmanager
    def down(self, how: End = "reset") -> Iterator[None]:
        """Refuse what comes in the block, after ending what is there."""
        with self.during("refuse"):
            self.cut(how)
            yield

    def close(self) -> None:
        """End everything."""
        if self._running:
            self._order(self._finish)
            self._thread.join()
            self._bell.close()
            self._ear.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _order(self, action: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.extend((action, done.set))
        self._bell.send(b"x")
        if not done.wait(PATIENCE):
            raise TimeoutError(f"the proxy did not act within {PATIENCE:g} s")

    # In the thread

    def _run(self) -> None:
        while self._running:
            flows = self._flows()
            reading = {flow.source: flow for flow in flows if not flow.full}
            moments = {flow: flow.due for flow in flows}
            now = time.monotonic()
            writing = {flow.sink: flow for flow, due in moments.items() if due and due <= now}
            later = [due - now for due in moments.values() if due and due > now]
            doors = [self._listener] if self._listener and self.mode != "deaf" else []
            wanted = [self._ear, *doors, *reading]
            patience = min(later) if later else self._patience()
            readable, writable, _ = select.select(wanted, list(writing), [], patience)
            for each in readable:
                if each is self._ear:
                    self._ear.recv(CHUNK)
                elif each is self._listener:
                    self._accept(each)
                else:
                    reading[each].read()
                    self._cut_as_planned(reading[each])
            for each in writable:
                writing[each].write()
            self._sweep()
            while self._orders:
                self._orders.pop(0)()

    def _cut_as_planned(self, flow: Flow) -> None:
        if not self._point or not flow.waiting:
            return
        pair = next(pair for pair in self._pairs if flow in (pair.there, pair.back))
        from_client = flow is pair.there
        if from_client and self._messages > 0 and self._text in flow.waiting:
            self._messages -= 1
            self._hit = pair
        if self._messages > 0 or (self._point == "answer") == from_client:
            return
        if self._text and pair is not self._hit:
            return
        if self._point == "after":
            flow.write()
        flow.waiting, self._point, self._hit = b"", "", None
        # An RST would throw away what the server has not read yet.
        if self._leaves:
            self._left.append(pair.there.sink)
        else:
            _end(pair.there.sink, "close")
        _end(pair.there.source, "reset")
        self._pairs.remove(pair)

    def _flows(self) -> list[Flow]:
        """The directions in which bytes may move now."""
        if self.mode == "deaf":
            return []
        there = [pair.there for pair in self._pairs]
        return there if self.mode == "mute" else there + [pair.back for pair in self._pairs]

    def _patience(self) -> float | None:
        return None if self._idle_timeout is None else self._idle_timeout / 20

    def _accept(self, listener: socket.socket) -> None:
        client, (_, client_port) = listener.accept()
        self.accepted += 1
        if self.mode == "cut":
            _end(client, "close")
            return
        try:
            server = socket.create_connection(self.target, PATIENCE)
        except OSError:
            _end(client, "reset")  # there is no way to refuse what has been accepted
            return
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        there, back = self._flow(client, server), self._flow(server, client)
        self._pairs.append(Pair(there, back, client_port))

    def _flow(self, source: socket.socket, sink: socket.socket) -> Flow:
        return DelayedFlow(source, sink, self._delay) if self._delay else Flow(source, sink)

    def _sweep(self) -> None:
        """End what is over, broken, or idle for too long."""
        for pair in list(self._pairs):
            how = self._verdict(pair)
            if how is not None:
                pair.end(how)
                self._pairs.remove(pair)

    def _verdict(self, pair: Pair) -> End | None:
        if pair.there.broken or pair.back.broken:
            return "reset"
        if pair.there.ended and pair.back.ended and not pair.there.waiting + pair.back.waiting:
            return "close"
        idle = time.monotonic() - max(pair.there.used, pair.back.used)
        return self._idle_end if self._idle_timeout and idle > self._idle_timeout else None

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        if mode == "refuse" and self._listener is not None:
            self._listener.close()
            self._listener = None
        elif mode != "refuse" and self._listener is None:
            self._listen()

    def _listen(self) -> None:
        self._listener = socket.create_server((self.address, self.port), backlog=128)

    def _end_all(self, how: End) -> None:
        for pair in self._pairs:
            pair.end(how)
        self._pairs.clear()

    def _finish(self) -> None:
        self._running = False
        self._enter("refuse")
        self._end_all("reset")
        for each in self._left:
            _end(each, "reset")
