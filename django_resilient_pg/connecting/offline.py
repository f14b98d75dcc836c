"""Django's commands that work without a database: where there is none they do not wait for it.

On Django's engine ``makemigrations --check`` warns at once and goes on, and ``collectstatic`` does
not notice what an app has asked of the database in vain.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Final

_COMMANDS: Final = frozenset(
    "check collectstatic compilemessages diffsettings findstatic help makemessages makemigrations"
    " optimizemigration sendtestemail squashmigrations startapp startproject version".split()
)


def in_offline_command() -> bool:
    """Whether this thread runs such a command. Walks its stack: for a connection that has failed.

    The innermost command counts; ``check --database`` is about the database.
    """
    base = sys.modules.get("django.core.management.base")
    management = sys.modules.get("django.core.management")
    if base is None or management is None:
        return False
    execute = base.BaseCommand.execute.__code__
    started = management.ManagementUtility.execute.__code__
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is execute:
            name = type(frame.f_locals["self"]).__module__.rpartition(".")[2]
            options = frame.f_locals.get("options") or {}
            return name in _COMMANDS and not options.get("databases")
        if frame.f_code is started:  # which is still loading the apps
            return frame.f_locals.get("subcommand") in _COMMANDS
        frame = frame.f_back
    return False
