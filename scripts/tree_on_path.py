"""Make tests, testproject and benchmarks importable in this environment, behind what is installed.

A path file is read after site-packages: the wheel is found before the source tree it was built
from, in the tests and in every process they start.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    site = Path(sysconfig.get_path("purelib"))
    (site / "source_tree.pth").write_text(f"{ROOT}\n")
