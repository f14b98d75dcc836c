"""Django's test runner, which also writes down by id what failed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from django.test.runner import DiscoverRunner


class RecordingRunner(DiscoverRunner):
    """Write the outcome to the file that DJANGO_SUITE_RECORD names."""

    def suite_result(self, suite: Any, result: Any, **kwargs: Any) -> int:
        """Write down the ids of what failed and what was skipped, and how many tests ran."""
        broken = [test.id() for test, _ in (*result.failures, *result.errors)]
        surprises = [test.id() for test in result.unexpectedSuccesses]
        record = {
            "failed": sorted({*broken, *surprises}),
            "ran": result.testsRun,
            "skipped": sorted(test.id() for test, _ in result.skipped),
        }
        Path(os.environ["DJANGO_SUITE_RECORD"]).write_text(json.dumps(record))
        outcome: int = super().suite_result(suite, result, **kwargs)
        return outcome
