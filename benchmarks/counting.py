"""What an operation executes, counted: the same on every machine, however busy it is."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import django

#: Whose code it is.
OWNERS = ("engine", "Django", "rest")


_EVER = 1e9


def freeze_clock(package: str) -> None:
    """Have an engine think that it has just looked at its connections.

    Counting makes a statement slow. What would look anew after half a millisecond is to take the
    way that it takes when nobody counts.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{package}.")]
    found = [module for module in modules if hasattr(module, "FRESH")]
    if not found:
        raise SystemExit(f"{package}: FRESH is in none of its modules any more; say here what is")
    for module in found:
        module.FRESH = _EVER  # type: ignore[attr-defined]


def count(job: Callable[[Any], None], connection: Any, engines: str) -> dict[str, int]:
    """Count bytecode instructions by whose they are, calls of Python functions and of C ones."""
    owners = {engines: "engine", django.__path__[0]: "Django"}
    counted: Counter[str] = Counter()

    def instruction(owner: str) -> Callable[[FrameType, str, Any], Any]:
        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "opcode":
                counted[owner] += 1
            return trace

        return trace

    traces = {owner: instruction(owner) for owner in OWNERS}

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        file = frame.f_code.co_filename
        owner = next((name for path, name in owners.items() if file.startswith(path)), "rest")
        counted["calls"] += 1
        counted[f"{owner} calls"] += 1
        return traces[owner]

    def call(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            counted["C calls"] += 1

    # Python 3.12 traces opcodes only from the next sys.settrace() after a frame has asked for them.
    _while_set(sys.settrace, enter, job, connection)
    counted.clear()
    _while_set(sys.settrace, enter, job, connection)
    _while_set(sys.setprofile, call, job, connection)
    return dict(counted)


def _while_set(
    hook: Callable[[Any], None], function: Any, job: Callable[[Any], None], connection: Any
) -> None:
    hook(function)
    try:
        job(connection)
    finally:
        hook(None)
