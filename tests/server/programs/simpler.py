"""Simpler programs: without what ends sessions, or as short as still breaks a promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from .language import Block, By, Elsewhere, Fork, Kill, Program, Run, RunMany, Step
from .texts import Read, Text, Way, Write

T = TypeVar("T")


def shrink(program: Program, breaks: Callable[[Program], bool]) -> Program:
    """Try one simplification after another until none is left that keeps the violation."""
    return smallest(program, simpler, breaks)


def smallest(whole: T, smaller: Callable[[T], Iterator[T]], breaks: Callable[[T], bool]) -> T:
    """The same for whatever can be made smaller."""
    while (found := next(filter(breaks, smaller(whole)), None)) is not None:
        whole = found
    return whole


def simpler(program: Program) -> Iterator[Program]:
    """Programs that are a little simpler: the largest cuts first."""
    for at, step in enumerate(program):
        before, after = program[:at], program[at + 1 :]
        yield before + after
        for instead in _instead_of(step):
            yield before + instead + after


def _instead_of(step: Step) -> Iterator[Program]:
    match step:
        case Block():
            yield from _instead_of_block(step)
        case Elsewhere(inner):
            yield (inner,)
            for instead in _instead_of(inner):
                yield tuple(Elsewhere(one) for one in instead)
        case RunMany():
            yield from _instead_of_many(step)
        case Run(by, texts):
            for shorter in _simpler_texts(texts):
                yield (Run(by, shorter),)
            if by in {By.KEPT, By.PIPELINE}:
                yield (Run(By.DJANGO, texts),)


def _instead_of_many(step: RunMany) -> Iterator[Program]:
    by, writes = step.by, step.writes
    if writes:
        yield (Run(by, writes[:1]),)
    for at in range(len(writes)):
        yield (RunMany(by, writes[:at] + writes[at + 1 :]),)


def _instead_of_block(block: Block) -> Iterator[Program]:
    yield block.body
    for shorter in simpler(block.body):
        yield (replace(block, body=shorter),)
    if block.leaves:
        yield (replace(block, leaves=False),)
    if block.kind != "atomic":
        yield (replace(block, kind="atomic"),)


def _simpler_texts(texts: tuple[Text, ...]) -> Iterator[tuple[Text, ...]]:
    for at, text in enumerate(texts):
        before, after = texts[:at], texts[at + 1 :]
        if before or after:
            yield before + after
        for instead in (_harmless(text), _plain(text)):
            if instead != text:
                yield (*before, instead, *after)


def undisturbed(program: Program) -> Program:
    """The same program, in which no session dies."""
    steps: list[Step] = []
    for step in program:
        match step:
            case Kill() | Fork():  # what a child of the stock engine does disturbs its parent
                continue
            case Block():
                steps.append(replace(step, body=undisturbed(step.body)))
            case Elsewhere(inner):
                steps += [Elsewhere(one) for one in undisturbed((inner,))]
            case Run(by, texts):
                steps.append(Run(by, tuple(map(_harmless, texts))))
            case RunMany(by, writes):
                steps.append(RunMany(by, tuple(replace(one, fate=None) for one in writes)))
            case _:
                steps.append(step)
    return tuple(steps)


def _harmless(text: Text) -> Text:
    match text:
        case Write():
            return replace(text, fate=None)
        case Read():
            return replace(text, dies=False)
        case _:
            return text


def _plain(text: Text) -> Text:
    match text:
        case Write():
            return replace(text, way=Way.INSERT, note="")
        case Read():
            return replace(text, note="")
        case _:
            return text
