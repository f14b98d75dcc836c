"""Drives the page ``status/`` in a browser, by keyboard: ``python -m scripts.status_check``.

The page shows a database that has lost connections, one with a pool that lends for too long, and
one that is not reachable. It must raise no error in the console, load nothing from elsewhere, fit a
phone, work by keyboard and pass axe-core: as it is, after a check that its button has made, and
while no database can be reached. ``--keep`` writes its pictures to docs/pictures. Needs Chromium
and npm, which fetches axe-core.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page

from scripts.browser import LOOKS, OUTLINE, VISIBLE, Check, axe, chromium, run
from scripts.status_site import TOKEN, Site, site

PATIENCE: Final = 60_000.0  # milliseconds
#: What the page has to say while all is in place.
SAID: Final = (
    "2 of 3 databases are reachable.",
    "Connections of the pool held for longer than",
    "Connections of this process",
    "Last losses, the newest first",
    "terminated by administrator",
    "1 healed, 1 surfaced",
    "Not reachable: ",
    "in use",  # TLS
    "This process has not checked the connection yet.",
)
CHECKED: Final = "Last check of the connection by this process, at "
DOWN: Final = "0 of 3 databases are reachable."
FOCUSABLE: Final = "a[href], button, [tabindex='0']"
# What has the focus: where it stands among all that can have it, and how it is marked.
FOCUSED: Final = """focusable => {
    const node = document.activeElement, box = node.getBoundingClientRect();
    return {
        at: [...document.querySelectorAll(focusable)].indexOf(node),
        seen: box.width > 0 && box.bottom > 0 && box.top < innerHeight
            && box.right > 0 && box.left < innerWidth,
    };
}"""


def examine(check: Check) -> None:
    """All of it."""
    source = axe()
    with site() as project, chromium() as browser:
        pages = {
            name: opened(browser, project, check, name, **look) for name, look in LOOKS.items()
        }
        for name, page in pages.items():
            calm(page, name, source, check)
        for name, alias in (("desktop-light", "default"), ("phone-dark", "replica")):
            by_keyboard(pages[name], name, check)
            press_check(pages[name], alias, name, source, check)
        project.server.stop()
        for name, look in LOOKS.items():
            down(browser, project, check, name, source, look)


def opened(browser: Browser, project: Site, check: Check, name: str, **look: Any) -> Page:
    """The page, as somebody of the staff sees it."""
    context = browser.new_context(**look)
    context.set_default_timeout(PATIENCE)
    given = urlsplit(project.address)
    context.add_cookies(
        [{"name": "sessionid", "value": project.session, "url": f"http://{given.netloc}"}]
    )
    return check.opened(context, project.address, name)


def calm(page: Page, name: str, source: str, check: Check) -> None:
    """Hold the page to what it has to say and show."""
    text = page.locator("body").inner_text()
    check.expect(page.title() == "2 of 3 databases reachable - status", f"{name}: its title")
    missing = [said for said in SAID if said not in text]
    check.expect(
        not missing, f"{name}: says all it knows{f', but not {missing}' if missing else ''}"
    )
    check.fits(page, name)
    check.picture(page, name)
    check.accessible(page, f"{name}, calm", source)


def by_keyboard(page: Page, name: str, check: Check) -> None:
    """The Tab key goes through all that can have the focus, in its order, and shows where it is."""
    number = page.locator(FOCUSABLE).count()
    page.evaluate("document.activeElement.blur()")
    steps = []
    for _ in range(number):
        page.keyboard.press("Tab")
        outline = page.locator(":focus").evaluate(OUTLINE)
        steps.append({**page.evaluate(FOCUSED, FOCUSABLE), "outline": outline})
    right = [step["at"] for step in steps] == list(range(number))
    check.expect(right, f"{name}: Tab goes through {number} places in their order")
    marked = all(step["seen"] and step["outline"] == VISIBLE for step in steps)
    check.expect(marked, f"{name}: the focus can be seen at each of them")
    tab_to(page, ".skip")
    page.keyboard.press("Enter")
    skipped = page.evaluate("document.activeElement.id")
    check.expect(skipped == "databases", f"{name}: the first link skips to the databases")


def tab_to(page: Page, selector: str) -> None:
    """Go with the Tab key to what a selector means."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.locator("body").click(position={"x": 1, "y": 1})
    for _ in range(page.locator(FOCUSABLE).count()):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise LookupError(f"the Tab key does not lead to {selector}")


def press_check(page: Page, alias: str, name: str, source: str, check: Check) -> None:
    """Enter on a button checks its database, and the page then shows what was found."""
    tab_to(page, f"button[value={alias}]")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    checked = page.locator("section", has_text=f"Check {alias} now").get_by_text(CHECKED)
    check.expect(checked.count() == 1, f'{name}: the button has checked "{alias}"')
    check.fits(page, f"{name}, checked")
    check.accessible(page, f"{name}, checked", source)


def down(
    browser: Browser, project: Site, check: Check, name: str, source: str, look: dict[str, Any]
) -> None:
    """With no database to be reached a token opens the page."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    context = browser.new_context(extra_http_headers=headers, **look)
    context.set_default_timeout(PATIENCE)
    page = check.opened(context, project.address, f"{name}, down")
    said = page.locator("header .verdict").inner_text()
    check.expect(said == DOWN, f"{name}, down: {said}")
    check.fits(page, f"{name}, down")
    check.accessible(page, f"{name}, down", source)


if __name__ == "__main__":
    run("status", __doc__, examine)
