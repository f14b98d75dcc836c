"""A process of the application with an engine that is broken on purpose; the name comes first."""

from __future__ import annotations

import os
import sys

import django

from tests.soak import worker


def main() -> None:
    """Break the engine, then answer orders."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"
    django.setup()
    from tests.cuts.mutants import break_engine

    break_engine(sys.argv[1])
    worker.main(sys.argv[2:])


if __name__ == "__main__":
    main()
