"""How much was read from a socket, by what the kernel counts."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from django_resilient_pg.driver.sockets import bytes_read

pytestmark = pytest.mark.once_per_driver


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
def test_what_waits_is_not_read_yet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            assert bytes_read(client.fileno()) == 0
            server.sendall(b"x" * 10)
            assert client.recv(10, socket.MSG_PEEK | socket.MSG_WAITALL) == b"x" * 10
            assert bytes_read(client.fileno()) == 0
            client.recv(4)
            assert bytes_read(client.fileno()) == 4
            server.shutdown(socket.SHUT_WR)
            client.recv(6, socket.MSG_WAITALL)
            assert client.recv(1) == b""
            assert bytes_read(client.fileno()) == 11  # with the end of the stream
            number = client.fileno()
        assert bytes_read(number) is None


def test_other_descriptors_tell_nothing() -> None:
    one, other = socket.socketpair()
    with one, other:
        other.send(b"x")
        one.recv(1)
        assert bytes_read(one.fileno()) is None
    reading, writing = os.pipe()
    assert bytes_read(reading) is None
    os.close(reading)
    os.close(writing)
