"""docs/checks.rst: every finding once, under its title, in one shape, with a fix that fits."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from django_resilient_pg.checks import middleware, packages, serving
from django_resilient_pg.conf.options import parse
from django_resilient_pg.diagnosis.findings import PREFIX, RULES, Finding, Rule, findings
from django_resilient_pg.diagnosis.report.fixes import snippet
from tests.unit.finding_cases import CASES
from tests.unit.pages import NODES, PAGES, blocks, page, project_table, section, titles

pytestmark = pytest.mark.once

PAGE = "docs/checks.rst"
ID = re.compile(r"[EWI]\d{3}")
SHAPE = ["What", "Why", "Fix", "Source"]
EVERY = pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)


def number(rule: Rule) -> str:
    return rule.id.removeprefix(PREFIX)


def entry(rule: Rule) -> Any:
    return section(PAGE, f"{number(rule)}: {rule.title}")


def code(rule: Rule) -> tuple[str, str]:
    """The language of the fix, and the fix."""
    (block,) = entry(rule).findall(NODES.literal_block)
    (language,) = set(block["classes"]) - {"code"}
    return language, block.astext()


def pasted(text: str) -> dict[str, Any]:
    """An alias with every option set, after these lines of settings."""
    alias: dict[str, Any] = {
        "OPTIONS": {"sslnegotiation": "direct", "pool": True, "prepare_threshold": 5}
    }
    exec(text, {"DATABASES": {"default": alias}})
    return alias


def names(entry: Mapping[str, Any], within: str = "") -> Iterator[str]:
    for name, value in entry.items():
        if name == "OPTIONS":
            yield from names(value, "OPTIONS.")
        else:
            yield within + name


def test_every_finding_is_documented_once_and_no_other() -> None:
    documented = [title.partition(":")[0] for title in titles(PAGE) if ID.match(title)]
    assert len(documented) == len(set(documented))
    assert {PREFIX + each for each in documented} == RULES.keys()


@EVERY
def test_it_has_its_title_and_shape(rule: Rule) -> None:
    fields = list(entry(rule).findall(NODES.field))
    assert [field[0].astext() for field in fields] == SHAPE
    assert all(field[1].astext().strip() for field in fields)
    (source,) = [field[1] for field in fields if field[0].astext() == "Source"]
    links = [node["refuri"] for node in source.findall(NODES.reference)]
    assert links
    assert all(link.startswith("https://") or link == "options.rst" for link in links)


@EVERY
def test_its_address_leads_to_it(rule: Rule) -> None:
    address, _, anchor = Finding(rule.id, rule.level, "", "", "", {}).page.partition("#")
    assert address == project_table()["urls"]["Findings"]
    assert anchor in entry(rule)["ids"]


@EVERY
def test_it_stands_under_its_level(rule: Rule) -> None:
    (heading,) = [
        found[0].astext()
        for found in page(PAGE).findall(NODES.section)
        if any(each[0].astext().startswith(number(rule)) for each in found.findall(NODES.section))
        and not ID.match(found[0].astext())
        and found[0].astext() != "Findings"
    ]
    assert heading == {40: "Errors", 30: "Warnings", 20: "Worth knowing"}[rule.level]


@EVERY
def test_the_fix_can_be_pasted(rule: Rule) -> None:
    language, text = code(rule)
    if language == "py":
        ast.parse(text)
        resilience = pasted(text)["OPTIONS"].get("resilience", {})
        parse("default", resilience)
    else:
        assert language in {"sql", "ini"}


@EVERY
def test_what_the_command_would_change_is_what_is_documented(rule: Rule) -> None:
    """The same settings, if not to the same numbers: these come from what was measured."""
    language, text = code(rule)
    for case in CASES:
        found = next((one for one in findings(case.bad) if one.id == rule.id), None)
        if found is None or case.number != number(rule) or not found.fix:
            continue
        assert language == "py"
        before, after = pasted(""), pasted(text)
        gone = before["OPTIONS"].keys() - after["OPTIONS"].keys()
        documented = {*names(after), *(f"OPTIONS.{name}" for name in gone)}
        assert set(names(found.fix)) <= documented
        exec("\n".join(snippet("default", [found])), {"DATABASES": {"default": before}})


def of_other_checks() -> set[str]:
    """Those explained in ``docs/units.rst``, ``docs/servers.rst`` and ``docs/packages.rst``."""
    modules = (middleware, packages, serving)
    files = [Path(str(module.__file__)) for module in modules]
    sources = "".join(file.read_text(encoding="utf-8") for file in files)
    return set(re.findall(r"resilient_pg\.[EWI]3\d\d", sources))


def test_ids_named_elsewhere_exist() -> None:
    known = RULES.keys() | of_other_checks()
    assert not RULES.keys() & of_other_checks()
    for name in PAGES:
        for each in re.findall(r"resilient_pg\.([EWI]\d{3})", page(name).astext()):
            assert PREFIX + each in known, f"{name}: {each}"


def test_the_ids_of_other_checks_are_linked() -> None:
    """It is the page of all that ``manage.py check`` may find."""
    text, links = page(PAGE).astext(), [n["refuri"] for n in page(PAGE).findall(NODES.reference)]
    named = set(re.findall(r"[EW]3\d\d", text.replace("W301 to W304", "W301 W302 W303 W304")))
    assert {PREFIX + each for each in named} == of_other_checks()
    assert {"units.rst", "servers.rst", "packages.rst"} <= set(links)


def test_there_are_fixes_to_paste() -> None:
    """Otherwise the tests above would prove little."""
    assert len(blocks(PAGE, "py")) > 30
