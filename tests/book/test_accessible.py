"""Every page by axe-core, in both themes, and by keyboard; and how heavy the pages are."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from .conftest import CHAPTERS, PAGES
from .test_browser import opened

MEGABYTES = 3
# Typeset formulas have thousands of nodes and their own description; the colours of highlighted code are
# checked in test_browser, and would take axe half a minute a page.
LEFT_OUT = ["mjx-container", ".highlight pre", "iframe"]
RUN = """
([leftOut, only]) => axe.run({exclude: leftOut.map(s => [s])},
  {resultTypes: ['violations'], iframes: false, ...(only ? {runOnly: only} : {})})
"""
THEME = "theme => { document.documentElement.dataset.theme = theme; }"


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    package = pytest.importorskip("axe_playwright_python", reason="needs the extra 'test'")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def grave(result: dict) -> list[str]:
    """Serious and critical violations, one line each."""
    return [f"{v['id']} ({v['impact']}): {v['nodes'][0]['html'][:120]} and {len(v['nodes']) - 1} more"
            for v in result["violations"] if v["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("name", [*PAGES, "search"])
def test_axe_finds_nothing_grave(browser, address: str, axe: str, name: str) -> None:
    with opened(browser, address, f"{name}.html") as (view, _):
        view.wait_for_timeout(600)  # book.js looks again once everything is in place
        view.evaluate(axe)
        found = {}
        for theme, only in (("light", None), ("dark", ["color-contrast"])):
            view.evaluate(THEME, theme)
            view.wait_for_timeout(400)  # colours fade over
            found[theme] = grave(view.evaluate(RUN, [LEFT_OUT, only]))
        assert found == {"light": [], "dark": []}


def test_axe_would_notice(browser, address: str, axe: str) -> None:
    with opened(browser, address, "book/index.html") as (view, _):
        view.evaluate(axe)
        view.evaluate("() => document.querySelector('article').insertAdjacentHTML('beforeend',"
                      " `<button></button><p style='color: #ddd; background: #fff'>faint</p>`)")
        ids = [said.split()[0] for said in grave(view.evaluate(RUN, [LEFT_OUT, None]))]
        assert {"button-name", "color-contrast"} <= set(ids)


PRACTICE = [name for name in PAGES if name.startswith("practice/")]


@pytest.mark.parametrize("name", PRACTICE[:1])
def test_a_quiz_works_by_keyboard(browser, address: str, name: str) -> None:
    with opened(browser, address, f"{name}.html") as (view, trouble):
        folds = view.locator("article details")
        assert folds.count() >= 15
        first = folds.first
        assert first.get_attribute("open") is None
        first.locator("summary").focus()
        view.keyboard.press("Enter")
        assert first.get_attribute("open") is not None
        assert any(word in first.inner_text() for word in ("Right.", "Not quite."))
        view.keyboard.press("Tab")
        assert view.evaluate("() => document.activeElement.tagName") in ("SUMMARY", "A", "BUTTON")
        assert trouble == []


def test_the_first_key_leads_to_the_text(browser, address: str) -> None:
    with opened(browser, address, "book/index.html") as (view, _):
        view.keyboard.press("Tab")
        assert "skip to main content" in view.evaluate("() => document.activeElement.textContent").lower()
        view.keyboard.press("Enter")
        assert view.url.endswith("#main-content")


WHERE = """
() => document.activeElement.closest('.bd-sidebar-primary, .bd-header-article, article')
  ?.className.split(' ')[0] || ''
"""


def test_every_control_can_be_reached_and_seen(browser, address: str) -> None:
    with opened(browser, address, "book/index.html") as (view, _):
        seen = set()
        for _ in range(60):
            view.keyboard.press("Tab")
            seen.add(view.evaluate(WHERE))
        assert {"bd-sidebar-primary", "bd-header-article", "bd-article"} <= seen


@pytest.mark.parametrize("name", CHAPTERS[1:3])
def test_words_of_the_glossary_carry_their_meaning(browser, address: str, name: str) -> None:
    with opened(browser, address, f"{name}.html") as (view, _):
        terms = view.locator("article a.term")
        assert terms.count() >= 3
        for k in range(terms.count()):
            assert len(terms.nth(k).get_attribute("title")) > 20
        view.goto(terms.first.evaluate("link => link.href"))
        assert view.evaluate("() => document.querySelector(':target') !== null")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light(html: Path, name: str) -> None:
    page = html / f"{name}.html"
    size, seen = page.stat().st_size, set()
    document = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    for element in document.select("article [src]:not(iframe)"):  # interactive views load when reached
        file = (page.parent / unquote(urlsplit(str(element["src"])).path)).resolve()
        if file.is_file() and file not in seen:
            seen.add(file)
            size += file.stat().st_size
    assert size <= MEGABYTES * 2**20, f"{size / 2**20:.1f} MB"
