"""Run many plays, or many programs of a single connection, and print what breaks a promise.

The exit status is 1 if something does. A play that does is shown as small as it could be made.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
import time
import warnings
from collections.abc import Sequence

import django

from tests import needs

#: Plays of one seed of hypothesis', which in the end looks for variations only.
ROUND = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if a promise was broken."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"
    os.environ.update(
        DATABASE_ENGINE="django_resilient_pg", DATABASE_HOST="127.0.0.1", DATABASE_PORT="1"
    )
    django.setup()
    from tests.engines import DRIVER
    from tests.server.programs.campaigns import CAMPAIGNS

    there = [name for name in CAMPAIGNS if name != "pool" or DRIVER == "psycopg"]
    parser = argparse.ArgumentParser(prog="python -m tests.server.programs", description=__doc__)
    parser.add_argument("--campaigns", nargs="+", choices=there, default=there)
    parser.add_argument("--number", type=int, default=1000, help="plays of each campaign")
    parser.add_argument("--seed", default=secrets.token_hex(4))
    parser.add_argument("--calm", action="store_true", help="let no session die")
    parser.add_argument("--engine", default="django_resilient_pg", help="as ENGINE has it")
    given = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)  # thousands of lines of what is meant to happen
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
    needs.name_those_of_a_test(["pgbouncer"])
    print(f"{DRIVER}, seed {given.seed}", flush=True)
    return max([_campaign(name, given) for name in given.campaigns])


def _campaign(name: str, given: argparse.Namespace) -> int:
    """Run the plays of one campaign, and say what came of them."""
    from tests.server.programs.campaigns import CAMPAIGNS, smallest

    began, found, done = time.monotonic(), None, 0
    with CAMPAIGNS[name](given.engine) as runs:
        while found is None and done < given.number:
            number = min(ROUND, given.number - done)
            found = smallest(
                runs,
                seed=f"{given.seed} {done}",
                number=number,
                at_once=name in {"threads", "pool"},
                change=(lambda play: play.undisturbed) if given.calm else (lambda play: play),
            )
            done += number
        met = ", ".join(f"{what} {number}" for what, number in runs.met.most_common())
    print(f"{name}: {done} plays, {time.monotonic() - began:.0f} s; met: {met}", flush=True)
    if found is not None:
        print(f"VIOLATION, of the seed {given.seed}: {found}", flush=True)
    return found is not None


if __name__ == "__main__":
    sys.exit(main())
