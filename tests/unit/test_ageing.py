"""How long a connection may stay idle and live, and where the number comes from."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_resilient_pg.conf.options import Options
from django_resilient_pg.facts import Endpoint, Facts, Path, SocketOptions, SocketView
from django_resilient_pg.policy.limits import (
    NOTHING_KNOWN,
    Kept,
    Learned,
    Suspected,
    jittered,
    limits,
)
from django_resilient_pg.providers import PROVIDERS, Provider

KEEPALIVES = SocketOptions(True, 20.0, 5.0, 3, 30.0)
NO_KEEPALIVES = SocketOptions(False, 7200.0, 75.0, 9, 0.0)
SYSTEM_KEEPALIVES = NO_KEEPALIVES._replace(keepalives=True)
REMOTE = SocketView(1, Endpoint("10.0.0.1", 40000), Endpoint("10.0.0.2", 5432), unix=False)
LOCAL = SocketView(1, Endpoint("127.0.0.1", 40000), Endpoint("127.0.0.1", 5432), unix=False)
UNIX = SocketView(1, None, None, unix=True)

positive = st.floats(0.1, 1e6)
maybe = st.none() | positive


def named(name: str) -> Provider:
    return next(provider for provider in PROVIDERS if provider.name == name)


def facts(
    *,
    keepalives: SocketOptions = KEEPALIVES,
    socket: SocketView = REMOTE,
    path: Path = Path.DIRECT,
    provider: Provider | None = None,
    idle_session_timeout: float | None = None,
    tcp_keepalives_idle: float | None = 7200.0,
) -> Facts:
    return Facts(
        server_version=180006,
        path=path,
        path_evidence="",
        provider=provider,
        socket=socket._replace(keepalives=keepalives),
        idle_session_timeout=idle_session_timeout,
        tcp_keepalives_idle=tcp_keepalives_idle,
    )


@pytest.mark.parametrize("path", list(Path))
def test_nothing_known_is_no_limit(path: Path) -> None:
    found = limits(Options(), facts(path=path), None, None)
    assert found.idle.seconds == math.inf
    assert found.idle.source == NOTHING_KNOWN
    assert found.age is None


def test_before_the_first_connection_the_option_counts() -> None:
    assert limits(Options(), None, None, 60).age == 60
    found = limits(Options(idle_timeout=100), None, None, None)
    assert (found.idle.seconds, found.age) == (50, 50)
    assert found.idle.source == "the option idle_timeout (100 s)"


@pytest.mark.parametrize(
    ("conn_max_age", "age", "source"),
    [
        (0, 0, "CONN_MAX_AGE"),
        (1, 1, "CONN_MAX_AGE"),
        (60, 1.5, "idle_session_timeout of the server (3 s)"),
        (None, 1.5, "idle_session_timeout of the server (3 s)"),
    ],
)
def test_conn_max_age_is_clamped_to_the_idle_limit(
    conn_max_age: float | None, age: float, source: str
) -> None:
    found = limits(Options(), facts(idle_session_timeout=3.0), None, conn_max_age)
    assert (found.idle.seconds, found.age, found.age_source) == (1.5, age, source)
    assert found.idle.source == "idle_session_timeout of the server (3 s)"


def test_the_smallest_counts() -> None:
    neon = facts(provider=named("Neon (direct endpoint)"), idle_session_timeout=600.0)
    assert limits(Options(), neon, None, None).idle.source == (
        "the idle timeout of Neon (direct endpoint) (300 s)"
    )
    assert limits(Options(), neon, 90.0, None).idle.seconds == 45
    assert limits(Options(idle_timeout=50), neon, 90.0, None).idle.seconds == 25
    assert limits(Options(idle_timeout=1000), neon, None, None).idle.seconds == 150


def test_learned() -> None:
    found = limits(Options(), facts(), 42.1234, None)
    assert found.idle.seconds == pytest.approx(21.0617)
    assert found.idle.source == "a connection found dead after 42.1 s without use"


@pytest.mark.parametrize(
    ("keepalives", "seconds"),
    [(KEEPALIVES, math.inf), (NO_KEEPALIVES, 120.0), (SYSTEM_KEEPALIVES, 120.0)],
)
def test_a_timeout_that_keepalives_reset_counts_only_without_them(
    keepalives: SocketOptions, seconds: float
) -> None:
    azure = named("Azure Database for PostgreSQL - flexible server")
    behind_nat = facts(keepalives=keepalives, provider=azure, path=Path.NAT_OR_PROXY)
    assert limits(Options(), behind_nat, None, None).idle.seconds == seconds


@pytest.mark.parametrize("keepalives", [KEEPALIVES, NO_KEEPALIVES])
def test_a_timeout_that_keepalives_do_not_reset_always_counts(keepalives: SocketOptions) -> None:
    proxy = facts(keepalives=keepalives, provider=named("Fly.io Managed Postgres (MPG)"))
    limit = limits(Options(idle_margin=1.0), proxy, None, None).idle.seconds
    assert limit == (300 if keepalives is KEEPALIVES else 240)


@pytest.mark.parametrize(
    ("path", "server_idle", "seconds"),
    [
        (Path.DIRECT, 120.0, math.inf),
        (Path.VIRTUAL_IP, 120.0, math.inf),
        (Path.DIRECT, 240.0, 120.0),
        (Path.DIRECT, 300.0, 120.0),
        (Path.DIRECT, None, 120.0),
        # A proxy or pooler swallows the server's probes.
        (Path.NAT_OR_PROXY, 120.0, 120.0),
        (Path.POOLER, 120.0, 120.0),
    ],
)
def test_the_servers_own_keepalives_help_where_they_reach_us(
    path: Path, server_idle: float | None, seconds: float
) -> None:
    seen = facts(keepalives=NO_KEEPALIVES, path=path, tcp_keepalives_idle=server_idle)
    assert limits(Options(), seen, None, None).idle.seconds == seconds


@pytest.mark.parametrize(
    ("idle", "seconds"),
    [(1.0, math.inf), (239.0, math.inf), (240.0, 120.0), (0.0, 120.0), (None, 120.0)],
)
def test_keepalives_help_where_they_come_before_the_shortest_timeout(
    idle: float | None, seconds: float
) -> None:
    seen = facts(keepalives=KEEPALIVES._replace(keepalives_idle=idle), tcp_keepalives_idle=None)
    assert limits(Options(), seen, None, None).idle.seconds == seconds


@pytest.mark.parametrize("socket", [LOCAL, UNIX])
def test_no_device_is_on_a_path_within_one_host(socket: SocketView) -> None:
    here = facts(keepalives=NO_KEEPALIVES, socket=socket)
    assert limits(Options(), here, None, None).idle.seconds == math.inf


def test_keepalives_that_cannot_be_read_count_as_off() -> None:
    unread = facts()._replace(socket=REMOTE)
    assert limits(Options(), unread, None, None).idle.seconds == 120


@pytest.mark.parametrize(
    ("name", "age"),
    [("Amazon Aurora DSQL", 3240.0), ("CockroachDB Cloud", 1620.0)],
)
def test_a_maximum_lifetime_bounds_the_age_only(name: str, age: float) -> None:
    found = limits(Options(), facts(provider=named(name)), None, None)
    assert found.age == age
    assert found.age_source.startswith(f"maximum lifetime of a connection at {name} (")
    assert found.idle.seconds == math.inf


def test_ping_after_is_the_options() -> None:
    assert limits(Options(ping_after=7.0), None, None, None).ping_after == 7.0


@given(
    option=maybe,
    margin=st.floats(0.01, 1.0),
    server=maybe,
    learned=maybe,
    provider=st.none() | st.sampled_from(PROVIDERS),
    keepalives=st.sampled_from([KEEPALIVES, NO_KEEPALIVES, SYSTEM_KEEPALIVES]),
    path=st.sampled_from(Path),
    conn_max_age=st.none() | st.floats(0, 1e6),
)
def test_never_above_any_source(
    option: float | None,
    margin: float,
    server: float | None,
    learned: float | None,
    provider: Provider | None,
    keepalives: SocketOptions,
    path: Path,
    conn_max_age: float | None,
) -> None:
    seen = facts(keepalives=keepalives, path=path, provider=provider, idle_session_timeout=server)
    options = Options(idle_timeout=option, idle_margin=margin)
    found = limits(options, seen, learned, conn_max_age)
    sources = [value for value in (option, server, learned) if value is not None]
    if provider and provider.idle_timeout and not provider.keepalives_help:
        sources.append(provider.idle_timeout)
    for source in sources:
        assert found.idle.seconds <= source * margin
    age = math.inf if found.age is None else found.age
    assert age <= found.idle.seconds
    assert conn_max_age is None or age <= conn_max_age
    assert provider is None or provider.max_lifetime is None or age < provider.max_lifetime
    assert (found.idle.source == NOTHING_KNOWN) == math.isinf(found.idle.seconds)


@given(age=st.floats(0, 1e9), jitter=st.floats(0, 1), random=st.floats(0, 1, exclude_max=True))
def test_jitter_shortens_by_no_more_than_its_part(age: float, jitter: float, random: float) -> None:
    shortened = jittered(age, jitter, lambda: random)
    assert age * (1 - jitter) <= shortened <= age


def test_jitter_of_an_age() -> None:
    assert jittered(100.0, 0.1, lambda: 0.5) == pytest.approx(95.0)
    assert jittered(math.inf, 1.0, lambda: 0.5) == math.inf


def test_learned_only_ever_falls() -> None:
    learned = Learned()
    assert learned.value() is None
    for idle, value in [(90.0, 90.0), (120.0, 90.0), (45.5, 45.5), (60.0, 45.5)]:
        learned.note(idle)
        assert learned.value() == value


def test_what_was_learned_is_forgotten_after_an_hour() -> None:
    now = 1000.0
    learned = Learned(clock=lambda: now)
    learned.note(60.0)
    now += 3599.0
    learned.note(70.0)
    learned.note(60.0)
    assert learned.value() == 60.0
    now += 1.0
    assert learned.value() == 60.0
    now += 1.0
    assert learned.value() is None
    learned.note(70.0)
    assert learned.value() == 70.0


def test_what_was_learned_is_forgotten_when_a_connection_outlives_it() -> None:
    learned = Learned()
    learned.note(60.0)
    learned.outlived(60.0)
    assert learned.value() == 60.0
    learned.outlived(61.0)
    assert learned.value() is None


def test_no_time_is_learned_that_would_end_every_connection() -> None:
    learned = Learned()
    learned.note(0.026)
    assert learned.value() == 0.5


def test_a_suspicion_is_told_once() -> None:
    learned, found = Learned(), Suspected(idle=60.0, heard_at=1000.0)
    assert learned.suspected() is None
    learned.suspect(found)
    assert learned.suspected() is found
    assert learned.suspected() is None


def test_after_a_fork_nobody_waits_for_a_thread_that_is_not_there() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def clock() -> float:
        if threading.current_thread() is other:
            inside.set()
            go_on.wait(10.0)
        return 0.0

    learned = Learned(clock)
    other = threading.Thread(target=learned.note, args=(60.0,))
    other.start()
    assert inside.wait(10.0)
    learned.renew_lock()
    late = threading.Thread(target=learned.note, args=(50.0,), daemon=True)
    late.start()
    late.join(5.0)
    stuck = late.is_alive()
    go_on.set()
    other.join()
    assert not stuck


def test_learned_by_many_threads() -> None:
    learned = Learned()
    together = threading.Barrier(8)

    def note(first: int) -> None:
        together.wait()
        for idle in range(first, 4000, 8):
            learned.note(4000.0 - idle)

    threads = [threading.Thread(target=note, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert learned.value() == 1.0


def test_a_pool_keeps_connections_whatever_conn_max_age_says() -> None:
    known = facts(idle_session_timeout=3.0)
    found = limits(Options(), known, None, 0, Kept.IN_POOL)
    assert found.age is None, "idle time is looked at when one is taken"
    assert found.idle.seconds == 1.5


def test_where_each_request_has_a_thread_of_its_own_nothing_is_kept() -> None:
    found = limits(Options(), None, None, None, Kept.NOT_AT_ALL)
    assert found.age == 0.0
    assert "ASGI" in found.age_source
