"""Which modules are changed, and which tests have to notice."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PACKAGE: Final = "django_resilient_pg"

#: Module -> unit tests, those that notice most first.
TARGETS: Final[dict[str, tuple[str, ...]]] = {
    "policy.rules": ("retry", "deadlines", "notes"),
    "policy.verdicts": ("retry", "verdicts", "verdicts_attempts", "verdicts_texts", "notes"),
    "policy.limits": ("ageing", "wanted"),
    "sql.lexer": ("statements", "session", "texts", "names"),
    "sql.statements": ("statements", "session", "texts", "names"),
    "state.transaction": ("state_transaction",),
}


def path_of(module: str) -> Path:
    """The file of a module."""
    return ROOT / PACKAGE / f"{module.replace('.', '/')}.py"


def files_of(module: str) -> list[str]:
    """The test files of a module, as pytest takes them."""
    return [f"tests/unit/test_{name}.py" for name in TARGETS[module]]
