"""The command ``checkdbconn``, run in this process."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from django.core.management import CommandError, call_command

ROOT = Path(__file__).resolve().parents[3]
UNREACHABLE: dict[str, Any] = {"HOST": "localhost", "PORT": "1"}


def run(*aliases: str, **options: Any) -> tuple[str, str, int]:
    """What it printed, what it complained of, and its exit status."""
    out, complaints, status = io.StringIO(), io.StringIO(), 0
    try:
        call_command(
            "checkdbconn",
            database=list(aliases),
            stdout=out,
            stderr=complaints,
            **{"no_color": True, **options},
        )
    except CommandError as error:
        complaints.write(str(error))
        status = error.returncode
    return out.getvalue(), complaints.getvalue(), status


def words(text: str) -> str:
    return " ".join(text.split())


def document(alias: str, **options: Any) -> dict[str, Any]:
    said, _, status = run(alias, format="json", **options)
    whole: dict[str, Any] = json.loads(said)
    assert whole["exit_status"] == status
    return whole
