"""Where something is wrong: each contestant under each fault, and what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.peers.contender import Contender, contender, entry, witness
from benchmarks.peers.contestants import BY_NAME, CONTESTANTS, POOL_SIZE, Contestant
from benchmarks.peers.environments import Unavailable
from benchmarks.peers.failures import failed
from testproject.comparison import KILL_EVERY, THREADS
from testproject.faults import Faults
from testproject.postgres import Server
from tests import needs
from tests.faults.cluster import Replicated
from tests.faults.namespace import Namespace

#: What runs a server that others have too: more sessions than all pools.
_ROOM: Final = {"max_connections": "400"}
_KINDS: Final = ("read", "write", "transaction")
_READ_WRITE: Final = {"target_session_attrs": "read-write"}


@dataclass(frozen=True, slots=True)
class Size:
    """How long each fault is looked at, in seconds and rounds."""

    idle_rounds: int
    pool_rounds: int
    load: float
    down: float
    silent: float
    hold: float


FULL: Final = Size(idle_rounds=12, pool_rounds=3, load=5.0, down=4.0, silent=35.0, hold=50.0)
QUICK: Final = Size(idle_rounds=3, pool_rounds=1, load=3.0, down=1.0, silent=0.0, hold=3.0)
#: Seconds that a restart takes, beside a database that is down for longer.
RESTART: Final = 0.5


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault needs: a server, the driver, and how much."""

    server: Server
    driver: str
    size: Size

    @contextmanager
    def contender(self, contestant: Contestant, name: str) -> Iterator[Contender]:
        """Run a contestant on a new database."""
        self.server.create_database(name)
        found = entry(self.server, contestant, self.driver, name=name)
        try:
            with contender(
                contestant, self.driver, {"default": found}, witness(self.server, name)
            ) as running:
                yield running
        finally:
            self.server.drop_database(name)


def killed_while_idle(scene: Scene, contestant: Contestant) -> dict[str, Any]:
    """All sessions end while nothing runs, within one request or command; then all go on."""
    with scene.contender(contestant, "idle") as running:
        running.order("gather", 4)
        waited = []
        for number in range(scene.size.idle_rounds):
            scene.server.terminate_all("idle")
            kind = _KINDS[number % len(_KINDS)]
            waited.append(running.order("operate", kind, request=False))
        return _judged(running.order("judge"), waited)


def all_pooled_dead(scene: Scene, contestant: Contestant) -> dict[str, Any]:
    """All sessions end between requests, a pool's all at once; then one request by each thread."""
    with scene.contender(contestant, "pooled") as running:
        running.order("gather", POOL_SIZE)
        waited = []
        for number in range(scene.size.pool_rounds):
            running.order("connect")
            scene.server.terminate_all("pooled")
            kind = _KINDS[number % len(_KINDS)]
            waited.append(running.order("operate", kind, request=True))
        return _judged(running.order("judge"), waited)


def killed_often(scene: Scene, contestant: Contestant) -> dict[str, Any]:
    """A session ends every 100 ms under a load."""
    with scene.contender(contestant, "killed") as running:
        faults = Faults(scene.server, "killed", kill_every=KILL_EVERY)
        told = _loaded(running, scene.size.load, faults)
    return {**_counts(told), "first_success": None, "kills": faults.kills}


def restarted(scene: Scene, contestant: Contestant) -> dict[str, Any]:
    """The server restarts under a load."""
    return _down(scene, contestant, RESTART)


def down(scene: Scene, contestant: Contestant) -> dict[str, Any]:
    """The server is down for some seconds under a load."""
    return _down(scene, contestant, scene.size.down)


def _down(scene: Scene, contestant: Contestant, seconds: float) -> dict[str, Any]:
    at = scene.size.load / 4
    with scene.contender(contestant, "down") as running:
        faults = Faults(
            scene.server, "down", kill_every=None, restarts=[(at, "fast")], down=seconds
        )
        told = _loaded(running, scene.size.load + seconds, faults)
    return _after(told, faults.returned)


def failed_over(driver: str, size: Size, contestant: Contestant) -> dict[str, Any]:
    """The primary crashes under a load, and the standby is promoted."""
    with Replicated() as pair:
        hosts = {key: pair.database()[key] for key in ("HOST", "PORT")}
        tls = {"sslrootcert": pair.ca_file}
        found = entry(pair.first, contestant, driver, options={**tls, **_READ_WRITE}, **hosts)
        counted = witness(pair.first, options={**tls, **_READ_WRITE}, **hosts)
        with contender(contestant, driver, {"default": found}, counted) as running:
            promoted: list[float] = []

            def crash() -> None:
                time.sleep(size.load / 4)
                pair.first.stop("immediate")
                time.sleep(RESTART)  # whoever promotes has to notice it first
                promoted.append(time.monotonic())
                pair.promote()

            crashing = threading.Thread(target=crash)
            crashing.start()
            try:
                told = running.order("load", size.load, THREADS)
            finally:
                crashing.join()
        return _after(told, promoted)


def dropped(driver: str, size: Size) -> dict[str, Any]:
    """All packets of the connections there are vanish; new connections pass.

    All contestants at once: they mostly wait.
    """
    lacking = [name for name in needs.NAMESPACE if needs.lacking(name)]
    if lacking:
        reason = f"this machine lacks {', '.join(lacking)}"
        return {each.name: {"left_out": reason} for each in CONTESTANTS}
    needs.name_those_of_a_test(needs.NAMESPACE)
    found: dict[str, Any] = {}
    with Namespace() as space, space.server(**_ROOM) as server, ExitStack() as stack:
        crews = _gathered(Scene(server, driver, size), stack, found)
        with ThreadPoolExecutor(len(crews)) as threads:
            with _forgotten(space, server):
                time.sleep(size.silent)
                waits = {crew: threads.submit(_answered, crew) for crew in crews}
                time.sleep(size.hold)
            found |= {crew.contestant.name: wait.result() for crew, wait in waits.items()}
    return found


def _gathered(scene: Scene, stack: ExitStack, found: dict[str, Any]) -> list[Contender]:
    """Run all contestants that work here, each with some connections; others go to ``found``."""
    crews = []
    for each in CONTESTANTS:
        try:
            running = stack.enter_context(scene.contender(each, each.name))
            running.order("gather", 4)
            crews.append(running)
        except Unavailable as error:
            found[each.name] = {"left_out": str(error)}
    return crews


def _answered(crew: Contender) -> dict[str, Any]:
    try:
        waited = crew.order("operate", "read", request=True)
        return _judged(crew.order("judge"), [waited])
    except Unavailable as error:
        return {"left_out": str(error)}


@contextmanager
def _forgotten(space: Namespace, server: Server) -> Iterator[None]:
    """Packets of the present connections vanish, both ways."""
    sql = "SELECT client_port FROM pg_stat_activity WHERE usename = %s AND client_port > 0"
    ports = [port for (port,) in server.execute(sql, [server.user])]
    with space.forgetting(ports):
        yield


def _loaded(running: Contender, seconds: float, faults: Faults) -> dict[str, Any]:
    with faults:
        told: dict[str, Any] = running.order("load", seconds, THREADS)
    return told


def _after(told: dict[str, Any], moments: list[float]) -> dict[str, Any]:
    """What came of a load, with the time from the moment things were well to the next success."""
    waited = [
        next((at - moment for at in told["succeeded"] if at >= moment), None) for moment in moments
    ]
    return {**_counts(told), "first_success": _longest(waited)}


def _judged(told: dict[str, Any], waited: list[float | None]) -> dict[str, Any]:
    return {**_counts(told), "first_success": _longest(waited)}


def _longest(waited: list[float | None]) -> float | str:
    known = [seconds for seconds in waited if seconds is not None]
    return max(known) if known and len(known) == len(waited) else "never"


def _counts(told: dict[str, Any]) -> dict[str, Any]:
    """What of a load's result is published."""
    result = told["result"]
    return {
        "operations": sum(result["operations"].values()),
        "failed_requests": told["failed_requests"],
        "failed_reads": result["failed_reads"],
        "failed_writes": result["write_errors"],
        "failed_transactions": result["failed_transactions"],
        "applied_though_failed": result["landed"],
        "doubled": result["doubled"] + result["half_committed"],
        "lost": result["lost"],
        "hung": result["hung"],
        "slowest": max(result["slowest"], told["slowest_between"]),
        "errors": dict(list(result["errors"].items())[:3]),
    }


#: name -> the fault, on a server that all contestants use one after the other.
ON_ONE_SERVER: Final[dict[str, Callable[[Scene, Contestant], dict[str, Any]]]] = {
    "killed while idle": killed_while_idle,
    "all pooled sessions dead": all_pooled_dead,
    "killed every 100 ms": killed_often,
    "restart": restarted,
    "database down": down,
}


def measure(driver: str, size: Size, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run all of it; return what the results file holds."""
    found: dict[str, dict[str, Any]] = {}
    with Server(settings=_ROOM) as server:
        scene = Scene(server, driver, size)
        for fault, act in ON_ONE_SERVER.items():
            found[fault] = {}
            for each in CONTESTANTS:
                found[fault][each.name] = _tried(tell, fault, each, lambda: act(scene, each))  # noqa: B023
        [(version,)] = server.execute("SHOW server_version")
    found["failover"] = {}
    for each in CONTESTANTS:
        found["failover"][each.name] = _tried(
            tell,
            "failover",
            each,
            lambda: failed_over(driver, size, each),  # noqa: B023
        )
    found["silent drop"] = dropped(driver, size)
    for name, came in found["silent drop"].items():
        tell(_line("silent drop", BY_NAME[name], came))
    return {
        "postgresql": str(version).split()[0],
        "size": {name: getattr(size, name) for name in Size.__slots__},
        "faults": found,
    }


def _tried(
    tell: Callable[[str], None],
    fault: str,
    contestant: Contestant,
    act: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    began = time.monotonic()
    try:
        found = act()
    except Unavailable as error:
        found = {"left_out": str(error)}
    tell(f"{_line(fault, contestant, found)} ({time.monotonic() - began:.0f} s)")
    return found


def _line(fault: str, contestant: Contestant, found: dict[str, Any]) -> str:
    if "left_out" in found:
        return f"{fault}, {contestant.title}: left out: {found['left_out']}"
    said = f"{failed(found)} of {found['operations']} failed, {found['doubled']} doubled"
    said += (
        f", {found['lost']} lost, {found['hung']} threads hung, slowest {found['slowest']:.2f} s"
    )
    return f"{fault}, {contestant.title}: {said}, first success {found['first_success']}"
