"""What is measured where nothing is wrong, and on which paths. Pure."""

from __future__ import annotations

from typing import Final

JOBS: Final = ("query", "orm query", "transaction", "request", "atomic request", "connect")
#: alias -> name of the path, seconds that a round trip takes longer, seconds for one turn.
PATHS: Final = {
    "default": ("loopback", 0.0, 0.008),
    "near": ("1 ms", 0.001, 0.020),
    "far": ("10 ms", 0.010, 0.040),
}
NAMES: Final = tuple(name for name, _, _ in PATHS.values())
