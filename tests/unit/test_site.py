"""What makes the pages a site: what is made says all of the data, and each page has a place.

``make docs`` builds the site, and holds that no link leads nowhere. Here is what needs no Sphinx.
"""

from __future__ import annotations

import ast
import configparser
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from django_resilient_pg.conf.options import parse
from django_resilient_pg.policy.error_table import TABLE, Entry
from django_resilient_pg.providers import PROVIDERS, Provider
from docs.extension import drawings, errors, links, made, offline, providers
from docs.extension.words import escaped
from tests.unit.pages import (
    CORE,
    NODES,
    PAGES,
    QUIET,
    ROOT,
    blocks,
    page,
    project_table,
    table,
    words,
)
from tests.unit.test_language import faults

pytestmark = pytest.mark.once

EXPLAINED = {one.name: one for one in errors.explained()}
DRAWINGS = sorted((ROOT / "docs/drawings").glob("*.svg"))
#: Entries of losses that the page says more about than the rules do.
SPECIAL = {"idle in transaction", "lost inside atomic()", "ended while waiting for a standby"}


def parsed(text: str) -> Any:
    said: list[str] = []
    stream = type("Stream", (), {"write": lambda self, text: said.append(text)})()
    tree = CORE.publish_doctree(
        text, settings_overrides={**QUIET, "report_level": 1, "warning_stream": stream}
    )
    assert said == []
    return tree


CATALOGUE = parsed(made.expand("Catalogue\n=========\n\n.. made: errors\n"))
CLOUDS = parsed(made.expand("Clouds\n======\n\n.. made: providers\n"))


ALL_ERRORS = words(CATALOGUE.astext())


def sections(tree: Any) -> dict[str, Any]:
    return {found[0].astext(): found for found in tree.findall(NODES.section)}


ERRORS, PLACES = sections(CATALOGUE), sections(CLOUDS)


# -- the tree of contents ---------------------------------------------------------------------


def test_every_page_has_its_place_in_the_tree() -> None:
    tree = links.contents((ROOT / "docs/index.rst").read_text(encoding="utf-8"))
    placed = re.findall(r"<(\w+)>$", tree, re.M)
    own = {Path(name).stem for name in PAGES if name.startswith("docs/")} - {"index"}
    assert sorted(placed) == sorted(own)
    assert tree.count(":caption:") == tree.count(".. toctree::") > 3


def test_a_page_asks_only_for_what_there_is() -> None:
    asked = [
        name
        for path in (ROOT / "docs").glob("*.rst")
        for name in re.findall(r"^\.\. made: (\w+)$", path.read_text(encoding="utf-8"), re.M)
    ]
    assert sorted(asked) == sorted(made.MADE)


@pytest.mark.parametrize("name", ["changes", "contributing"])
def test_pages_of_the_top_are_shown_with_their_links(name: str) -> None:
    text = made.expand((ROOT / f"docs/{name}.rst").read_text(encoding="utf-8"))
    tree = parsed(links.without_contents(text))
    for reference in tree.findall(NODES.reference):
        target = reference.get("refuri", "https://")
        assert target.startswith("https://") or (ROOT / "docs" / target).resolve().is_file()


# -- the error catalogue ----------------------------------------------------------------------


def test_every_error_of_the_table_is_explained_once_and_no_other() -> None:
    names = Counter(one.name for one in errors.explained())
    assert names == Counter(entry.name for entry in TABLE)


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_an_error_has_its_texts_its_cause_and_its_cure(entry: Entry) -> None:
    one = EXPLAINED[entry.name]
    found = ERRORS[one.title]
    told = words(found.astext())
    for text in (one.cause, one.cure):
        assert words(parsed(text).astext()) in told
    whole = told.lower()
    assert [part for part in entry.texts if part.strip('" ') not in whole] == []
    assert [code for code in entry.codes + entry.under if code not in whole.upper()] == []
    assert entry.reason.name in told


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_what_the_engine_does_is_said_by_its_rules(entry: Entry) -> None:
    """By hand only of a connection that lives, and of the few that need more words."""
    by_hand = bool(EXPLAINED[entry.name].engine)
    assert by_hand == (not entry.lost or entry.name in SPECIAL)


@pytest.mark.parametrize("row", errors.reported(), ids=lambda row: row["text"][:40])
def test_every_reported_text_is_found(row: dict[str, Any]) -> None:
    said = " ".join(row["text"].splitlines()[0][:150].split())
    assert said in ALL_ERRORS


# -- clouds and poolers -----------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_every_provider_has_its_timeouts_and_its_settings(provider: Provider) -> None:
    found = PLACES[provider.name]
    listed = {field[0].astext(): field[1].astext() for field in found.findall(NODES.field)}
    assert {"Idle timeout", "This engine", "Source", "What happens"} <= listed.keys()
    if provider.idle_timeout is not None:
        assert providers.duration(provider.idle_timeout) in listed["Idle timeout"]
    if provider.max_lifetime is not None:
        assert providers.duration(provider.max_lifetime) in listed["Longest life"]


def test_the_settings_are_accepted_and_prevent_the_timeout() -> None:
    needed = [one for one in PROVIDERS if providers.settings(one)]
    assert needed
    for provider in needed:
        alias: dict[str, Any] = {"OPTIONS": {}}
        exec("\n".join(providers.settings(provider)), {"DATABASES": {"default": alias}})
        options = parse("default", alias["OPTIONS"]["resilience"])
        assert providers.limits_at(provider, options).idle.seconds < (provider.idle_timeout or 0)


def test_durations_can_be_read() -> None:
    assert [providers.duration(one) for one in (30, 350, 1800, 86_400, 432_000)] == [
        "30 s",
        "350 s",
        "30 min",
        "24 h",
        "5 days",
    ]


# -- texts and drawings -----------------------------------------------------------------------


@pytest.mark.parametrize("tree", [CATALOGUE, CLOUDS], ids=["errors", "providers"])
def test_what_is_made_speaks_the_fields_language(tree: Any, tmp_path: Path) -> None:
    tree = tree.deepcopy()
    for literal in list(tree.findall(NODES.literal_block)):
        literal.parent.remove(literal)  # what others say
    file = tmp_path / "made.rst"
    file.write_text(tree.astext(), encoding="utf-8")
    assert faults(file) == []


def test_plain_text_stays_plain() -> None:
    text = "*a* `b` c_ |d| \\e"
    assert parsed(escaped(text)).astext() == text


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_a_drawing_says_what_it_shows_in_light_and_dark(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img"
    parts = {child.tag.rpartition("}")[2]: child for child in root}
    assert set((root.get("aria-labelledby") or "").split()) == {
        parts["title"].get("id"),
        parts["desc"].get("id"),
    }
    assert "prefers-color-scheme: dark" in str(parts["style"].text)
    inline = drawings.for_page(text)
    assert "<style" not in inline
    assert not re.search(r"#[0-9a-f]{3,6}\b", inline)  # every colour is a variable


def test_the_site_has_the_rules_of_the_drawings() -> None:
    css = (ROOT / "docs/_static/site.css").read_text(encoding="utf-8")
    style = re.search(r"<style>(.*)</style>", DRAWINGS[0].read_text(encoding="utf-8"), re.S)
    assert style
    selectors = re.findall(r"^ *(\.drawing [^{]+?) \{", style[1], re.M)
    assert len(selectors) > 5
    assert [one for one in selectors if one not in css] == []


def test_each_drawing_is_shown() -> None:
    shown = [node["uri"] for node in page("docs/why.rst").findall(NODES.image)]
    assert sorted(shown) == [f"drawings/{path.name}" for path in DRAWINGS]
    assert all(node.get("alt") for node in page("docs/why.rst").findall(NODES.image))


def test_what_comes_from_elsewhere_is_seen() -> None:
    html = """<a href="https://a/"><script src="_static/a.js"></script>
    <script defer src="https://b/b.js"></script><link rel="stylesheet" href="//c/c.css">
    <link rel="next" href="https://d/">"""
    assert offline.loaded_from_elsewhere(html) == ["https://b/b.js", "//c/c.css"]


def test_what_is_supported_is_what_is_tested() -> None:
    told = {row[0]: row[1] for row in table(page("docs/support.rst"), "What")}
    named = [one.rpartition(" :: ") for one in project_table()["classifiers"]]
    django = [version for kind, _, version in named if kind == "Framework :: Django"]
    python = [v for kind, _, v in named if kind.endswith(":: Python") and v.startswith("3.")]
    assert told["Django"] == ", ".join(django)
    assert told["Python"] == f"{python[0]} to {python[-1]}"
    for extra in ("psycopg", "psycopg2"):
        (needed,) = project_table()["optional-dependencies"][extra]
        row = "psycopg 3" if extra == "psycopg" else extra
        assert told[row] == f"{needed.partition('>=')[2]} or later"


# -- the example ------------------------------------------------------------------------------


COMPOSE = ROOT / "examples/compose"


def test_the_compose_example_says_what_its_page_says() -> None:
    ini = configparser.ConfigParser()
    ini.read(COMPOSE / "pgbouncer/pgbouncer.ini")
    bouncer = ini["pgbouncer"]
    settings = (COMPOSE / "web/shop/settings.py").read_text(encoding="utf-8")
    assert f'"idle_timeout": {bouncer["client_idle_timeout"]}' in settings
    assert bouncer["pool_mode"] == "transaction"
    assert '"DISABLE_SERVER_SIDE_CURSORS": True' in settings
    told = words(page("docs/docker.rst").astext())
    for name in ("server_login_retry", "query_wait_timeout"):
        assert f"{name} = {bouncer[name]}" in told


def test_the_compose_file_names_files_that_are_there_or_are_made() -> None:
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    built = re.findall(r"build: \./(\w+)", text)
    assert built
    assert all((COMPOSE / name / "Dockerfile").is_file() for name in built)
    secrets = re.findall(r"file: \./(secrets/\w+)", text)
    made_by_hand = "\n".join(blocks("docs/docker.rst", "shell"))
    assert len(secrets) == 3
    assert all(f"> {name}" in made_by_hand for name in secrets)


@pytest.mark.parametrize("path", sorted(COMPOSE.rglob("*.py")), ids=lambda path: path.name)
def test_the_modules_of_the_example_compile(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"))
