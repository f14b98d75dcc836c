"""Random programs: what applications do, and what they should not do, in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Final, Protocol, TypeVar, cast

from .language import Block, By, Call, Elsewhere, Fork, Hook, Kill, Program, Run, RunMany, Step
from .texts import HOSTILE, Control, Fail, Fate, Read, Set, Text, Way, Write

T = TypeVar("T")

_BY: Final = {By.DJANGO: 72, By.KEPT: 8, By.RAW: 20}
_FATES: Final = dict.fromkeys(Fate, 1)
#: A lost COMMIT is no success though it seems that there was nothing to commit.
_FATES_LIKE_READS: Final = {**_FATES, Fate.COMMIT: 5}
_LIKE_READS: Final = tuple(way for way in Way if way is not Way.INSERT)
_PHASES: Final = {"plain": 3, "by text": 4, "autocommit off": 2, "atomic": 5, "retry": 3}
_STEPS: Final = {
    "write": 34,
    "read": 18,
    "set": 9,
    "string": 8,
    "many": 5,
    "control": 8,
    "call": 13,
    "hook": 3,
    "fail": 2,
    "elsewhere": 7,
    "pipeline": 5,
    "fork": 2,
}
_CALLS: Final = {
    "is_usable": 5,
    "ensure_connection": 2,
    "close_if_unusable_or_obsolete": 2,
    "close": 1,
    "commit": 2,
    "rollback": 2,
    "savepoint": 3,
    "savepoint_rollback": 2,
    "savepoint_commit": 2,
    "set_autocommit(True)": 1,
    "set_autocommit(False)": 1,
    "raw_commit": 2,
    "raw_rollback": 2,
}
_CONTROLS: Final = {
    Control("BEGIN"): 2,
    Control("COMMIT"): 3,
    Control("END"): 1,
    Control("ROLLBACK"): 2,
    Control("SAVEPOINT", "a"): 3,
    Control("SAVEPOINT", "b"): 1,
    Control("ROLLBACK TO", "a"): 3,
    Control("ROLLBACK TO", "b"): 1,
    Control("RELEASE", "a"): 2,
}
_ENDS: Final[dict[Text | str, float]] = {
    Control("COMMIT"): 10,
    Control("END"): 2,
    Control("ROLLBACK"): 4,
    "commit": 4,
    "rollback": 2,
    "raw_commit": 2,
    "": 3,
}
_KINDS: Final = {"atomic": 6, "durable": 1, "no savepoint": 2}
_DEPTH: Final = 3
_FATAL: Final = 0.09
_OFTEN_FATAL: Final = 0.3


class Choices(Protocol):
    """Random numbers, or what takes their place: see ``random.Random``."""

    def random(self) -> float: ...

    def randint(self, least: int, most: int, /) -> int: ...

    def choice(self, options: Any, /) -> Any: ...

    def choices(self, options: Any, weights: Any, /) -> list[Any]: ...


class Generator:
    """Makes one program after another, from a seed or from somebody's choices."""

    def __init__(self, seed: Choices | str) -> None:
        self._random: Choices = random.Random(seed) if isinstance(seed, str) else seed
        self._keys = count(1)
        self._fatal = _FATAL  # the part of writes that end their session
        self._like_reads = 0.0  # the part of writes that look like reads

    def program(self) -> Program:
        self._keys = count(1)
        steps: list[Step] = []
        for _ in range(self._random.randint(1, 3)):
            kind = self._pick(_PHASES)
            self._like_reads = self._pick({0.0: 5, 0.5: 1, 1.0: 2})
            # In autocommit each is a COMMIT of its own. What only seems to read may be the only
            # writes of a transaction.
            often = kind == "plain" or self._like_reads == 1
            self._fatal = _OFTEN_FATAL if often else _FATAL
            steps += self._phase(kind)
        for _ in range(self._pick({0: 1, 1: 5, 2: 3})):
            steps = self._with_kill(steps)
        return tuple(steps)

    # -- phases ------------------------------------------------------------------------------------

    def _phase(self, kind: str) -> list[Step]:
        if kind == "plain":
            return self._steps(1, 3)
        if kind == "by text":
            return self._by_text()
        if kind == "autocommit off":
            return self._autocommit_off()
        return [self._block(0, "retry" if kind == "retry" else None)]

    def _by_text(self) -> list[Step]:
        steps: list[Step] = [Run(self._by(), (Control("BEGIN"),)), *self._steps(1, 4)]
        end = self._pick(_ENDS)
        if isinstance(end, Control):
            steps.append(Run(self._by(), (end,)))
        elif end:
            steps.append(Call(str(end)))
        return steps

    def _autocommit_off(self) -> list[Step]:
        steps: list[Step] = [Call("set_autocommit(False)")]
        for _ in range(self._random.randint(1, 2)):
            steps += self._steps(1, 3)
            steps.append(Call(self._pick({"commit": 4, "rollback": 2, "is_usable": 1})))
        if self._chance(0.9):
            steps.append(Call("set_autocommit(True)"))
        return steps

    def _block(self, depth: int, kind: str | None = None) -> Block:
        body: list[Step] = []
        for _ in range(self._random.randint(1, 4)):
            nested = depth < _DEPTH - 1 and self._chance(0.22)
            body += [self._block(depth + 1)] if nested else self._steps(1, 1)
        if not depth and self._chance(0.25):
            # What a transaction begins with is replayed.
            body.insert(0, Run(By.DJANGO, (self._set(local=1.0),)))
        if kind == "retry" and self._chance(0.4):
            # What is in the way of running it again.
            body.insert(0, self._elsewhere())
        return Block(
            kind or self._pick(_KINDS),
            tuple(body),
            swallows=self._chance(0.6),
            leaves=self._chance(0.12),
        )

    # -- steps -------------------------------------------------------------------------------------

    def _steps(self, least: int, most: int) -> list[Step]:
        return [self._step() for _ in range(self._random.randint(least, most))]

    def _step(self) -> Step:
        kind = self._pick(_STEPS)
        if kind == "call":
            return Call(self._pick(_CALLS))
        if kind == "hook":
            return Hook(next(self._keys))
        if kind == "fork":
            return Fork(next(self._keys))
        if kind == "elsewhere":
            return self._elsewhere()
        if kind == "pipeline":
            return self._pipeline()
        by = self._by()
        if kind == "many":
            way, length = self._way(), self._random.choice((0, 1, 2, 2, 3))
            writes = [replace(self._write(), way=way) for _ in range(length)]
            return RunMany(by, tuple(writes))
        if kind == "string":
            length = self._random.choice((2, 2, 3, 4))
            return Run(by, tuple(self._text(self._pick(_STEPS), by) for _ in range(length)))
        return Run(by, (self._text(kind, by),))

    def _elsewhere(self) -> Elsewhere:
        if self._chance(0.3):
            return Elsewhere(self._block(_DEPTH - 1, self._pick({None: 2, "retry": 1})))
        return Elsewhere(Run(self._pick({By.DJANGO: 4, By.RAW: 1}), (self._write(),)))

    def _pipeline(self) -> Run:
        kinds = {"write": 6, "read": 2, "fail": 1}
        length = self._random.choice((1, 2, 2, 3))
        texts = [self._text(self._pick(kinds), By.PIPELINE) for _ in range(length)]
        return Run(By.PIPELINE, tuple(texts))

    def _text(self, kind: str, by: By) -> Text:
        if kind == "read":
            return Read(dies=self._chance(0.06), note=self._note())
        if kind == "control" or (kind == "string" and self._chance(0.5)):
            return self._pick(_CONTROLS)
        if kind == "fail":
            return Fail()
        # What is set past Django's cursors the engine cannot see: a documented limit.
        if kind == "set" and by is not By.RAW:
            return self._set(local=0.4)
        return self._write()

    def _set(self, *, local: float) -> Set:
        values = ("red", "green", "blue", *HOSTILE)
        value = self._random.choice(values if local == 1 else (None, *values))
        is_local = value is not None and self._chance(local)
        return Set(value, is_local, call=value is not None and self._chance(0.4))

    def _write(self) -> Write:
        way = self._way()
        fates = _FATES if way is Way.INSERT else _FATES_LIKE_READS
        fate = self._pick(fates) if self._chance(self._fatal) else None
        return Write(next(self._keys), fate, way, self._note())

    def _note(self) -> str:
        return self._random.choice(HOSTILE) if self._chance(0.3) else ""

    def _way(self) -> Way:
        like_read = self._chance(self._like_reads)
        return self._random.choice(_LIKE_READS) if like_read else Way.INSERT

    def _with_kill(self, steps: Sequence[Step]) -> list[Step]:
        """The same with a kill at a random place, in a block or between."""
        at = self._random.randint(0, len(steps))
        before, after = list(steps[:at]), list(steps[at:])
        if after and isinstance(block := after[0], Block) and self._chance(0.8):
            inside = replace(block, body=tuple(self._with_kill(block.body)))
            return [*before, inside, *after[1:]]
        return [*before, Kill(), *after]

    # -- chance ------------------------------------------------------------------------------------

    def _by(self) -> By:
        return self._pick(_BY)

    def _chance(self, part: float) -> bool:
        return self._random.random() < part

    def _pick(self, weights: dict[T, float] | dict[T, int]) -> T:
        return cast("T", self._random.choices(list(weights), list(weights.values()))[0])
