"""Retries that succeed cost a process nothing, however few statements it has beside them.

A process on a busy machine has the same losses as one on an idle machine, and a tenth of the
successes between them. It has the tokens of one retry here, and needs three.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import Error, OperationalError

from django_resilient_pg.errors import ServerDown
from django_resilient_pg.policy.token_bucket import BUCKET
from testproject.postgres import Server
from tests.engines import Connections, each_asleep
from tests.faults.proxy import Proxy
from tests.server.scenarios import Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]
RETRIES = 3


@pytest.fixture(autouse=True)
def tokens_of_one_retry() -> None:
    BUCKET.tokens, BUCKET.short = BUCKET.COST, True


def test_reads(stage_of: Stages, proxy: Proxy) -> None:
    stage = stage_of(PORT=proxy.port)
    for number in range(RETRIES):
        proxy.cut_at(1, "answer")
        assert stage.run(f"SELECT {number}") == [(number,)]


def test_first_statements_of_transactions(stage_of: Stages, proxy: Proxy) -> None:
    stage = stage_of(PORT=proxy.port)
    for number in range(RETRIES):
        proxy.cut_at(2, "answer")  # after BEGIN's
        with stage.atomic():
            stage.insert(str(number))
    assert stage.rows() == ["0", "1", "2"]


def test_waits_for_a_server(stage_of: Stages, proxy: Proxy) -> None:
    stage = stage_of(PORT=proxy.port, retry_deadline=60.0)
    for number in range(RETRIES):
        stage.connection.close()
        proxy.set_mode("refuse")
        up = threading.Timer(0.1, proxy.set_mode, ["pass"])
        up.start()
        assert stage.run(f"SELECT {number}") == [(number,)]
        up.join()


def test_a_retry_that_is_lost_has_cost_its_tokens(
    server: Server, make_connection: Connections
) -> None:
    """Of a server that answers no read, a process with the tokens of one retry asks for one."""
    connection = make_connection(read_retries=9)
    with each_asleep(server, server.terminate) as ended, pytest.raises(Error) as caught:
        connection.cursor().execute("SELECT pg_sleep(60)")
    assert len(ended) == 2
    assert "too many retries are under way in this process" in caught.value.__notes__[0]


def test_a_wait_in_vain_has_cost_its_tokens(stage_of: Stages, proxy: Proxy) -> None:
    stage = stage_of(PORT=proxy.port, retry_deadline=0.2)
    stage.connection.close()
    with proxy.down():
        with pytest.raises(OperationalError) as caught:
            stage.run("SELECT 1")
        assert "is used up" in caught.value.__notes__[0]
        with pytest.raises(ServerDown):
            stage.run("SELECT 1")
    assert BUCKET.tokens < BUCKET.COST
