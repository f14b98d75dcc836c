"""Makes a program that breaks a promise as short as it gets while it still breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .language import Block, By, Program, Read, Run, RunMany, Step, Text, Write


def shrink(program: Program, breaks: Callable[[Program], bool]) -> Program:
    """Try one simplification after another until none is left that keeps the violation."""
    shorter = True
    while shorter:
        shorter = False
        for candidate in _simpler(program):
            if breaks(candidate):
                program, shorter = candidate, True
                break
    return program


def _simpler(program: Program) -> Iterator[Program]:
    """Programs that are a little simpler: the largest cuts first."""
    for at, step in enumerate(program):
        before, after = program[:at], program[at + 1 :]
        yield before + after
        for instead in _instead_of(step):
            yield before + instead + after


def _instead_of(step: Step) -> Iterator[Program]:
    match step:
        case Block(kind, body, swallows, leaves):
            yield body
            for shorter in _simpler(body):
                yield (Block(kind, shorter, swallows, leaves),)
            if leaves:
                yield (Block(kind, body, swallows),)
            if kind != "atomic":
                yield (Block("atomic", body, swallows, leaves),)
        case Run(by, texts):
            if len(texts) > 1:
                for at in range(len(texts)):
                    yield (Run(by, texts[:at] + texts[at + 1 :]),)
            for at, text in enumerate(texts):
                for plain in _plainer(text):
                    yield (Run(by, (*texts[:at], plain, *texts[at + 1 :])),)
            if by is By.KEPT:
                yield (Run(By.DJANGO, texts),)
        case RunMany(by, writes):
            if writes:
                yield (Run(by, writes[:1]),)
            for at in range(len(writes)):
                yield (RunMany(by, writes[:at] + writes[at + 1 :]),)
        case _:
            return


def _plainer(text: Text) -> Iterator[Text]:
    match text:
        case Write(key, fate) if fate is not None:
            yield Write(key)
        case Read(dies=True):
            yield Read()
        case _:
            return
