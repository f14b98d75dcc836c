"""The processes of the application: how they are started, told what to do, and judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

from django.db import InterfaceError, InternalError, OperationalError

from django_resilient_pg import errors
from django_resilient_pg.errors import CommitOutcomeUnknown
from django_resilient_pg.policy import messages
from testproject import environment
from testproject.comparison import OURS
from testproject.ledger import Result
from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT
from tests.faults.proxy import Proxy
from tests.soak.held import Held, held
from tests.soak.worker import DEADLINE, DIRECT_PORT

ROOT: Final = Path(__file__).resolve().parent.parent.parent
#: Classes of errors that tell of a lost connection; a constraint that is violated, or a wrong
#: answer, tells of a statement that ran where it must not.
_LOST: Final = frozenset(
    {each.__name__ for each in (OperationalError, InterfaceError, InternalError)}
    | {name for name, each in vars(errors).items() if isinstance(each, type)}
)
#: Before the reason, in the log.
_REFUSED: Final = "Not retried: "
#: Reasons for which a read is raised as well: somebody stops it on purpose, it stops the server, or
#: each new session, which faults at random do by chance where the machine is slower than they are.
_STOPPED: Final = (
    messages.cancelled("default"),
    messages.crashed("default"),
    messages.EACH_SESSION_ENDS,
)
#: Seconds after the end of a round until a process that does not answer is ended.
PATIENCE: Final = 120.0


@dataclass(frozen=True, slots=True)
class Kind:
    """How a process uses the engine.

    Attributes:
        settings: entries of DATABASES.
        keeps: connections that it keeps while it does nothing.
    """

    name: str
    retries: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    keeps: int = 0


#: No statement is to fail because faults come faster than a busy machine retries it.
_PATIENT: Final = {"resilience": {"read_retries": 50, "retry_deadline": DEADLINE}}
_POOL: Final = {"pool": {"min_size": 1, "max_size": 4, "timeout": 60}}
KINDS: Final = (
    Kind("kept", settings={"CONN_MAX_AGE": 60}),
    Kind("retry_atomic", retries=True, settings={"CONN_MAX_AGE": 0}),
    *(
        [Kind("pooled", settings={"CONN_MAX_AGE": 0}, options=_POOL, keeps=4)]
        if DRIVER == "psycopg"
        else []
    ),
)


class Process:
    """One process of the application, which works when it is told to.

    Args:
        module: what is run; tests put a broken engine into it.
        log: a file for what it logs.

    Raises:
        RuntimeError: it has ended although nobody has told it to.
    """

    def __init__(
        self,
        kind: Kind,
        server: Server,
        proxy: Proxy,
        *,
        threads: int,
        module: Sequence[str],
        log: IO[str],
    ) -> None:
        self.kind = kind
        #: Of the last round: what failed because its deadline was used up.
        self.late = 0
        self.rounds: list[Held] = []
        self._log = log
        command = [sys.executable, "-m", *module, f"--threads={threads}"]
        command += ["--retry-atomic"] if kind.retries else []
        self._process = subprocess.Popen(
            command,
            env=_variables(kind, server, proxy),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def order(self, what: object) -> None:
        """Tell it what to do, without waiting for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        """Wait for what it says; it is ended if that takes much longer than ``seconds``."""
        watchdog = threading.Timer(seconds + PATIENCE, self._process.kill)
        watchdog.start()
        try:
            output: IO[str] | None = self._process.stdout
            assert output is not None
            line = output.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise RuntimeError(f"the process {self.kind.name} has ended: {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def result(self, seconds: float) -> Result:
        """Wait for the result of a round, and note what the process holds after it."""
        answer = self.answer(seconds)
        result, self.late = Result(**answer["result"]), answer["late"]
        self.rounds.append(held(self._process.pid))
        return result

    def logged(self) -> list[str]:
        """Why the engine has not retried what it did not retry; from its log, which is emptied."""
        self._log.seek(0)
        found = [line.rstrip().partition(_REFUSED)[2] for line in self._log if _REFUSED in line]
        self._log.truncate(0)
        self._log.seek(0)
        return found

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _variables(kind: Kind, server: Server, proxy: Proxy) -> dict[str, str]:
    entry = server.database(
        engine=RESILIENT,
        options={**_PATIENT, **kind.options},
        PORT=str(proxy.port),
        **kind.settings,
    )
    return {
        **{name: text for name, text in os.environ.items() if not name.startswith(OURS)},
        **environment.variables(entry),
        DIRECT_PORT: str(server.port),
        "DJANGO_LOG_LEVEL": "WARNING",
    }


def violations(kind: Kind, result: Result, logged: Sequence[str], late: int) -> list[str]:
    """What no guarantee allows, one sentence each.

    Args:
        logged: why things were not retried; see :meth:`Process.logged`.
        late: what was raised because its deadline was used up; see :class:`.Timed`.
    """
    # Where nobody can tell whether it was committed, retrying it could double it.
    unknown = _errors(result, lambda name: name == CommitOutcomeUnknown.__name__)
    surfaced = result.failed_reads
    surfaced += max(0, result.failed_transactions - unknown) if kind.retries else 0
    excused = sum(any(why in line for why in _STOPPED) for line in logged)
    what = "reads, or transactions under retry_atomic, failed" if kind.retries else "reads failed"
    wrong = {
        what: surfaced - excused - late,
        "writes were doubled": result.doubled,
        "acknowledged writes were lost": result.lost,
        "transactions were committed by half": result.half_committed,
        "threads hang": result.hung,
        "errors are not those of a lost connection": _errors(result, lambda one: one not in _LOST),
    }
    return [f"{kind.name}: {number} {what}" for what, number in wrong.items() if number > 0]


def _errors(result: Result, wanted: Callable[[str], bool]) -> int:
    """How many errors there were of the classes that are wanted."""
    return sum(n for name, n in result.classes.items() if wanted(name))
