"""What the checks of pages share: Chromium driven by Playwright, axe-core, and what it is held to.

A check that lacks the browser or axe-core fails: nothing here is skipped.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parent.parent
PICTURES: Final = ROOT / "docs" / "pictures"
AXE: Final = "axe-core@4.14.1"
FLAGS: Final = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
).split()
LARGEST: Final = 150_000  # bytes of a picture
SCREENS: Final[dict[str, dict[str, Any]]] = {
    "desktop": {"viewport": {"width": 1280, "height": 780}},
    "phone": {"viewport": {"width": 375, "height": 812}, "device_scale_factor": 2},
}
# How the focus is marked. The width alone proves nothing: Chromium has one without an outline.
OUTLINE: Final = """node => {
    const { outlineStyle, outlineWidth } = getComputedStyle(node);
    return `${outlineStyle} ${outlineWidth}`;
}"""
VISIBLE: Final = "solid 3px"
NODES: Final = 3  # of one violation are shown
#: Each screen in light and dark.
LOOKS: Final = {
    f"{screen}-{scheme}": {"color_scheme": scheme, **given}
    for screen, given in SCREENS.items()
    for scheme in ("light", "dark")
}


@dataclass
class Check:
    """What was found wrong so far.

    Attributes:
        of: the page, as its pictures are named.
        keep: whether these go to docs/pictures.
    """

    of: str
    keep: bool = False
    done: int = 0
    wrong: list[str] = field(default_factory=list)

    def expect(self, right: bool, text: str) -> None:
        """Say whether something is as it should be."""
        print(f"{'ok    ' if right else 'WRONG '} {text}", flush=True)
        self.done += 1
        if not right:
            self.wrong.append(text)

    def opened(self, context: BrowserContext, address: str, name: str) -> Page:
        """A page; what it complains of, and what it loads from elsewhere, is held against it."""
        page = context.new_page()
        own: Callable[[str], bool] = lambda url: url.startswith((self.origin(address), "data:"))  # noqa: E731
        page.on("console", lambda said: self.expect(False, f"{name}: console: {said.text}"))
        page.on("pageerror", lambda error: self.expect(False, f"{name}: error: {error}"))
        page.on(
            "request",
            lambda asked: None if own(asked.url) else self.expect(False, f"{name}: {asked.url}"),
        )
        page.goto(address)
        return page

    @staticmethod
    def origin(address: str) -> str:
        """Scheme, host and port."""
        return "/".join(address.split("/")[:3])

    def fits(self, page: Page, name: str) -> None:
        """Nothing makes the page wider than the screen."""
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        self.expect(wide <= 0, f"{name}: nothing is wider than the screen")

    def accessible(self, page: Page, name: str, source: str) -> None:
        """Hold the page to axe-core."""
        page.evaluate(source)
        found = page.evaluate("axe.run().then(({ violations }) => violations)")
        for each in found:
            serious = each["impact"] in ("serious", "critical")
            nodes = [node["target"] for node in each["nodes"]]
            told = f"{len(nodes)} times, such as {nodes[:NODES]}"
            self.expect(not serious, f"{name}: axe: {each['impact']}: {each['id']} {told}")
        self.expect(True, f"{name}: axe-core found {len(found)} violations")

    def picture(self, page: Page, name: str) -> None:
        """Take a picture, small enough for the documentation."""
        taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        small = taken.quantize(256, dither=Image.Dither.NONE)
        packed = io.BytesIO()
        small.save(packed, "PNG", optimize=True)
        size = len(packed.getvalue())
        self.expect(size < LARGEST, f"{name}: picture of {size} bytes")
        if self.keep:
            PICTURES.mkdir(exist_ok=True)
            (PICTURES / f"{self.of}-{name}.png").write_bytes(packed.getvalue())


def axe() -> str:
    """The source of axe-core, fetched once."""
    folder = ROOT / ".cache" / "axe-core"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{AXE.replace('@', '-')}.tgz"
    if not kept.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit("This needs npm (on Debian: make browser-packages, as root).")
        subprocess.run([npm, "pack", "--silent", AXE], cwd=folder, check=True)
    with tarfile.open(kept) as packed:
        member = packed.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("This needs Chromium (on Debian: make browser-packages, as root).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def run(of: str, text: str | None, examine: Callable[[Check], None]) -> None:
    """Parse the command line, examine a page, and end with an error if something was wrong."""
    parser = argparse.ArgumentParser(prog=f"python -m scripts.{of}_check", description=text)
    parser.add_argument("--keep", action="store_true", help="write the pictures to docs/pictures")
    check = Check(of, parser.parse_args().keep)
    examine(check)
    if check.wrong or not check.done:
        raise SystemExit("\n".join(["", *check.wrong, f"{len(check.wrong)} wrong."]))
    print(f"{of}: {check.done} checks, none of them wrong.")
