"""Drives the outage lab in a browser, by keyboard: ``python -m scripts.lab_check``.

Each button is pressed. The chart and the counters of Django's engine have to show failures, those
of this engine none, and the log has to name the cause. The page must raise no error in the console,
load nothing from elsewhere, fit a phone, and pass axe-core. ``--keep`` writes its pictures to
docs/pictures. Needs Chromium and npm, which fetches axe-core.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final

from playwright.sync_api import Browser, Page

from scripts.browser import LOOKS, OUTLINE, ROOT, VISIBLE, Check, axe, chromium, run

PATIENCE: Final = 180_000.0  # milliseconds: the machine may be busy
CALM: Final = 5_000.0  # milliseconds between two faults, so that their lines stand apart
SPEAK: Final = 4.0  # seconds between two announcements of the log, as in lab.js
UNDER_WAY: Final = "[data-fault=silence].active"
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
    outline = button.evaluate(OUTLINE)
    page.keyboard.press("Enter")
    return bool(outline == VISIBLE)


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


def opened(browser: Browser, address: str, check: Check, name: str, **given: Any) -> Page:
    """A page of the lab, as soon as it shows requests."""
    page = check.opened(browser.new_context(**given), address, name)
    # Not wait_for_function() with an expression: the page's policy forbids evaluating it again.
    page.locator(".word", has_text="Answering").first.wait_for(timeout=PATIENCE)
    return page


def under_way(page: Page) -> None:
    """See to it that a fault is under way: on a slow machine the last one may be over."""
    if not page.locator(UNDER_WAY).count():
        page.wait_for_selector("[data-fault=silence][aria-disabled=false]", timeout=PATIENCE)
        press(page, "silence")
        page.wait_for_selector(UNDER_WAY)


def examine(check: Check) -> None:
    """All of it."""
    source = axe()
    with lab() as address, chromium() as browser:
        _examine(browser, address, check, source)


def _examine(browser: Browser, address: str, check: Check, source: str) -> None:
    pages = {name: opened(browser, address, check, name, **given) for name, given in LOOKS.items()}
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
        check.picture(page, name)
        check.fits(page, name)
    # Once while all is well, and once with a fault under way.
    for name, page in pages.items():
        check.accessible(page, f"{name}, calm", source)
    for name, page in pages.items():
        under_way(first)
        page.wait_for_selector(UNDER_WAY)
        check.accessible(page, f"{name}, broken", source)
    spoken = first.evaluate("spoken")
    gaps = [later - earlier for earlier, later in pairwise(spoken)]
    calm = bool(spoken) and min(gaps, default=SPEAK) > SPEAK * 0.8
    check.expect(calm, f"the log was announced {len(spoken)} times, never twice within {SPEAK:g} s")
    still = opened(browser, address, check, "still", reduced_motion="reduce")
    still.wait_for_timeout(1500)
    end = still.evaluate("Charts.plot('stock').scales.x.max")
    check.expect(end % 10 == 0, "with less motion the charts move on in steps")


if __name__ == "__main__":
    run("lab", __doc__, examine)
