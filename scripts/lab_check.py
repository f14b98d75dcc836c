"""Drives the outage lab in a browser, by keyboard: ``python -m scripts.lab_check``.

Each button is pressed. The chart and the counters of Django's engine have to show failures, those
of this engine none, and the log has to name the cause. The page must raise no error in the console,
load nothing from elsewhere, fit a phone, and pass axe-core. ``--keep`` writes its pictures to
docs/pictures. Needs Chromium and npm, which fetches axe-core.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parent.parent
PICTURES: Final = ROOT / "docs" / "pictures"
AXE: Final = "axe-core@4.14.1"
FLAGS: Final = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
).split()
PATIENCE: Final = 60_000.0  # milliseconds
CALM: Final = 5_000.0  # milliseconds between two faults, so that their lines stand apart
LARGEST: Final = 150_000  # bytes of a picture
SPEAK: Final = 4.0  # seconds between two announcements of the log, as in lab.js
#: Buttons in the order in which they are pressed, and what the engine's log has to say then.
CAUSES: Final = {
    "idle": "terminated by the server's idle_session_timeout",
    "silence": "the network path to the server broke",
    "crash": "a server process crashed",
    "failover": "the server or the pooler was shutting down",
    "restart": "terminated by administrator",
    "sessions": "terminated by administrator",
    "commit": "Its transaction has committed",
    "refuse": "is not accepting connections",
}
SCREENS: Final[dict[str, dict[str, Any]]] = {
    "desktop": {"viewport": {"width": 1280, "height": 780}},
    "phone": {"viewport": {"width": 375, "height": 812}, "device_scale_factor": 2},
}
# How many pixels of a chart have the colour of failures.
FAILED_PIXELS: Final = """name => {
    const { ctx, bbox } = Charts.plot(name);
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [bbox.width, bbox.height + 1];
    const probe = copy.getContext("2d", { willReadFrequently: true });
    probe.drawImage(ctx.canvas, -bbox.left, -bbox.top);
    probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--failed");
    probe.fillRect(0, bbox.height, 1, 1);
    const wanted = probe.getImageData(0, bbox.height, 1, 1).data;
    const { data } = probe.getImageData(0, 0, bbox.width, bbox.height);
    let found = 0;
    for (let at = 0; at < data.length; at += 4) {
        found += [0, 1, 2].every((part) => Math.abs(data[at + part] - wanted[part]) < 12);
    }
    return found;
}"""
# When the last of what the log shows has happened.
TOLD: Final = """() => Math.max(0, ...[...document.querySelectorAll("#log li")].map(
    (line) => Number(line.dataset.at)))"""
IS_OVER: Final = """([name, cause, before]) => {
    const count = (side, counter) => Number(
        document.querySelector(`[data-side=${side}] [data-counter=${counter}]`).textContent);
    const button = document.querySelector(`[data-fault=${name}]`);
    const lines = [...document.querySelectorAll("#log [data-source=resilient]")];
    const said = lines.filter((line) => line.dataset.at > before.told);
    return button.getAttribute("aria-disabled") === "false"
        && count("stock", "failed") > before.failed
        && count("resilient", "healed") > before.healed
        && (name !== "commit" || count("stock", "doubled") > before.doubled)
        && said.some((line) => line.textContent.includes(cause));
}"""


@dataclass
class Check:
    """What was found wrong so far."""

    wrong: list[str] = field(default_factory=list)

    def expect(self, right: bool, text: str) -> None:
        """Say whether something is as it should be."""
        print(f"{'ok    ' if right else 'WRONG '} {text}", flush=True)
        if not right:
            self.wrong.append(text)


@contextmanager
def lab() -> Iterator[str]:
    """The address of a lab that runs."""
    command = [sys.executable, "-m", "testproject.lab", "--port=0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = (re.search(r"http://\S+", line) for line in process.stdout)
            yield next(each[0] for each in found if each)
        finally:
            process.terminate()


def axe() -> str:
    """The source of axe-core, fetched once."""
    folder = ROOT / ".cache" / "axe-core"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{AXE.replace('@', '-')}.tgz"
    if not kept.exists():
        subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, check=True)
    with tarfile.open(kept) as packed:
        member = packed.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def opened(browser: Browser, address: str, check: Check, name: str, **given: Any) -> Page:
    """A page of the lab; what it complains of and loads is held against it."""
    page = browser.new_context(**given).new_page()
    page.on("console", lambda said: check.expect(False, f"{name}: console: {said.text}"))
    page.on("pageerror", lambda error: check.expect(False, f"{name}: error: {error}"))
    own: Callable[[str], bool] = lambda url: url.startswith((address, "data:"))  # noqa: E731
    page.on(
        "request",
        lambda asked: None if own(asked.url) else check.expect(False, f"{name}: {asked.url}"),
    )
    page.goto(address)
    page.wait_for_function("document.querySelector('.word').textContent === 'Answering'")
    return page


def counters(page: Page, side: str) -> dict[str, int]:
    """What the page counts for one application."""
    fields = page.locator(f"[data-side={side}] [data-counter]").all()
    texts = {str(each.get_attribute("data-counter")): each.inner_text() for each in fields}
    return {name: int(text) for name, text in texts.items() if text.isdecimal()}


def press(page: Page, name: str) -> bool:
    """Go to a button with the Tab key and press it; returns whether its focus was visible."""
    button = page.locator(f"[data-fault={name}]")
    page.evaluate("document.activeElement.blur()")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.fault") == name:
            break
    style = button.evaluate("node => getComputedStyle(node).outlineWidth")
    page.keyboard.press("Enter")
    return bool(style == "3px")


def break_it(page: Page, name: str, check: Check) -> None:
    """Press one button, and compare what the page shows then with what it has to."""
    page.wait_for_selector(f"[data-fault={name}][aria-disabled=false]", timeout=PATIENCE)
    page.wait_for_timeout(CALM)
    before: dict[str, float] = {**counters(page, "stock")}
    before["healed"] = counters(page, "resilient")["healed"]
    before["told"] = page.evaluate(TOLD)
    check.expect(press(page, name), f"{name}: reached by keyboard, focus visible")
    page.wait_for_function(
        "name => document.querySelector(`[data-fault=${name}]`).classList.contains('active')"
        " || document.querySelector('#sentence').textContent"
        " === JSON.parse(document.getElementById('shown').textContent).faults[name].sentence",
        arg=name,
    )
    page.wait_for_function(IS_OVER, arg=[name, CAUSES[name], before], timeout=PATIENCE)
    stock, own = counters(page, "stock"), counters(page, "resilient")
    failed = stock["failed"] - int(before["failed"])
    check.expect(failed > 0, f"{name}: Django's engine failed {failed} requests")
    wrong = {key: own[key] for key in ("failed", "doubled", "lost")}
    check.expect(not any(wrong.values()), f"{name}: this engine: {wrong}")
    check.expect(True, f'{name}: the log says "{CAUSES[name]}"')
    drawn = page.evaluate(FAILED_PIXELS, "stock"), page.evaluate(FAILED_PIXELS, "resilient")
    check.expect(drawn[0] > 0 == drawn[1], f"{name}: pixels of failures in the charts: {drawn}")


def accessible(page: Page, name: str, source: str, check: Check) -> None:
    """Hold the page to axe-core."""
    page.evaluate(source)
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    for each in found:
        serious = each["impact"] in ("serious", "critical")
        nodes = [node["target"] for node in each["nodes"]]
        check.expect(not serious, f"{name}: axe: {each['impact']}: {each['id']} {nodes}")
    check.expect(True, f"{name}: axe-core found {len(found)} violations")


def picture(page: Page, name: str, check: Check, keep: bool) -> None:
    """Take a picture, small enough for the documentation."""
    taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    small = taken.quantize(256, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    small.save(packed, "PNG", optimize=True)
    size = len(packed.getvalue())
    check.expect(size < LARGEST, f"{name}: picture of {size} bytes")
    if keep:
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / f"lab-{name}.png").write_bytes(packed.getvalue())


def examine(browser: Browser, address: str, check: Check, keep: bool) -> None:
    """All of it."""
    source = axe()
    pages = {
        f"{screen}-{scheme}": opened(
            browser, address, check, f"{screen}-{scheme}", color_scheme=scheme, **given
        )
        for screen, given in SCREENS.items()
        for scheme in ("light", "dark")
    }
    first = next(iter(pages.values()))
    first.evaluate(
        "window.spoken = []; new MutationObserver(() => spoken.push(Date.now() / 1000))"
        ".observe(document.querySelector('#spoken'), { childList: true, subtree: true })"
    )
    for name in CAUSES:
        break_it(first, name, check)
    first.wait_for_timeout(CALM / 2)
    first.evaluate("document.activeElement.blur()")
    for name, page in pages.items():
        picture(page, name, check, keep)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        check.expect(wide <= 0, f"{name}: nothing is wider than the screen")
    # Once while all is well, and once with a fault under way.
    for name, page in pages.items():
        accessible(page, f"{name}, calm", source, check)
    press(first, "silence")
    for name, page in pages.items():
        page.wait_for_selector("[data-fault=silence].active")
        accessible(page, f"{name}, broken", source, check)
    spoken = first.evaluate("spoken")
    gaps = [later - earlier for earlier, later in pairwise(spoken)]
    calm = bool(spoken) and min(gaps, default=SPEAK) > SPEAK * 0.8
    check.expect(calm, f"the log was announced {len(spoken)} times, never twice within {SPEAK:g} s")
    still = opened(browser, address, check, "still", reduced_motion="reduce")
    still.wait_for_timeout(1500)
    end = still.evaluate("Charts.plot('stock').scales.x.max")
    check.expect(end % 10 == 0, "with less motion the charts move on in steps")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m scripts.lab_check", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write the pictures to docs/pictures")
    keep = parser.parse_args().keep
    chromium = shutil.which("chromium")
    if chromium is None or shutil.which("npm") is None:
        raise SystemExit("This needs Chromium and npm (on Debian: apt-get install chromium npm).")
    check = Check()
    with ExitStack() as stack:
        address = stack.enter_context(lab())
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        stack.callback(browser.close)
        examine(browser, address, check, keep)
    if check.wrong:
        raise SystemExit("\n".join(["", *check.wrong]))


if __name__ == "__main__":
    main()
