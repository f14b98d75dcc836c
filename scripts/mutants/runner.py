"""Runs the unit tests concerned on one mutant after the other, each in a process of its own.

The processes are forked from one that has pytest, Django and the like already: importing them takes
longer than most of the tests.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType
from typing import Final

from scripts.mutants.changes import Mutant
from scripts.mutants.targets import PACKAGE, files_of, path_of

#: Seconds of processor time, and of waiting, after which a change counts as noticed: nothing ends
#: any more.
LIMIT: Final = 60
PATIENCE: Final = 600
_BEFORE: Final = (
    "pytest",
    "hypothesis",
    "_hypothesis_pytestplugin",
    "django.test",
    "django.db",
    "django.db.backends.postgresql.psycopg_any",
    "pdb",
    "socket",
    "sqlparse",
    "tenacity",
    "trustme",
    "xml.etree.ElementTree",
)
_SURVIVED: Final = 0


class _Changed(SourceFileLoader):
    """Loads one module from another text than its file's."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._changed = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self._changed, self.path, "exec", dont_inherit=True)
        return code


class _Finder:
    """Finds the changed module before anybody else does."""

    def __init__(self, module: str, source: str) -> None:
        self._name, self._path, self._source = f"{PACKAGE}.{module}", path_of(module), source

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load the changed module, and of no other one."""
        if name != self._name:
            return None
        loader = _Changed(name, str(self._path), self._source)
        return spec_from_file_location(name, self._path, loader=loader)


def run(mutants: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """Yield each mutant with whether it survived, as they end."""
    _import_before()
    waiting, running = list(reversed(mutants)), dict[int, Mutant]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            running[_start(mutant.module, mutant.source)] = mutant
        pid, status = os.wait()
        yield running.pop(pid), os.waitstatus_to_exitcode(status) == _SURVIVED


def passes_unchanged(module: str) -> bool:
    """Whether the tests of a module pass as it is."""
    _import_before()
    _, status = os.waitpid(_start(module, path_of(module).read_text()), 0)
    return os.waitstatus_to_exitcode(status) == 0


def _import_before() -> None:
    for name in _BEFORE:
        importlib.import_module(name)
    # A module that is there already would be tested instead of the changed one.
    assert PACKAGE not in sys.modules


def _start(module: str, source: str) -> int:
    pid = os.fork()
    if pid == 0:
        _test(module, source)
    return pid


def _test(module: str, source: str) -> None:
    """Run the tests and end with their status. Never returns."""
    import pytest

    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
        signal.alarm(PATIENCE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.meta_path.insert(0, _Finder(module, source))
        status = int(pytest.main([*files_of(module), "-x", "-q", "-p", "no:cacheprovider"]))
    finally:
        os._exit(status)
