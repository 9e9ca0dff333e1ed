"""The pages as a reader sees them: a real Chromium over a local server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import yaml

from .conftest import CHAPTERS, PAGES, ROOT

# Text whose contrast with what lies behind it is below the limit. Transparent layers are blended.
CONTRAST = """
() => {
  const parse = c => {
    const m = c.match(/[\\d.]+/g).map(Number);
    return [m[0], m[1], m[2], m.length > 3 ? m[3] : 1];
  };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const linear = v => v <= .03928 * 255 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const luminance = c => .2126 * linear(c[0]) + .7152 * linear(c[1]) + .0722 * linear(c[2]);
  const behind = e => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((b, l) => over(l, b), [255, 255, 255, 1]);
  };
  const inside = 'p li td th h1 h2 h3 a figcaption pre span code dt dd'.split(' ').map(t => 'article ' + t);
  const bad = [];
  for (const e of document.querySelectorAll([...inside, '.bd-sidebar-primary a'].join(','))) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest('iframe, mjx-container, .headerlink')) continue;
    const back = behind(e), text = over(parse(getComputedStyle(e).color), back);
    const [x, y] = [luminance(text), luminance(back)].sort((a, b) => b - a);
    const ratio = (x + .05) / (y + .05);
    if (ratio < (e.closest('pre') ? 3 : 4.5))
      bad.push(`${e.tagName} '${e.textContent.trim().slice(0, 30)}' ${ratio.toFixed(1)}: `
        + `${getComputedStyle(e).color} on ${back.slice(0, 3).map(Math.round)}`);
  }
  return bad;
}
"""
# What sticks out of the window and is not inside a box that scrolls or clips.
TOO_WIDE = """
() => {
  const width = window.innerWidth, found = [];
  if (document.documentElement.scrollWidth <= width + 1) return found;
  const sticksOut = e => e.getBoundingClientRect().right > width + 1;
  for (const e of document.querySelectorAll('main *')) {
    if (!sticksOut(e)) continue;
    let boxed = false;
    for (let p = e.parentElement; p && p.tagName !== 'MAIN'; p = p.parentElement)
      boxed ||= getComputedStyle(p).overflowX !== 'visible' && !sticksOut(p);
    if (!boxed) found.push(`${e.tagName}.${e.className} ${Math.round(e.getBoundingClientRect().right)}`);
  }
  return [`page ${document.documentElement.scrollWidth} px`, ...found.slice(0, 5)];
}
"""
GROUNDS = """
() => [...document.querySelectorAll('.cell_output img')].map(i => getComputedStyle(i).backgroundColor)
"""
LINKS = "(where) => [...document.querySelectorAll(where)].map(a => a.href)"
BROKEN = "() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
COUNTS = """
() => ['article .math', 'article .math mjx-container', 'mjx-merror, [data-mjx-error]']
  .map(s => document.querySelectorAll(s).length)
"""


@contextmanager
def opened(browser, address: str, page: str) -> Iterator:
    """A page, and the list of its complaints; requests to other hosts are blocked and listed."""
    context = browser.new_context(viewport={"width": 1300, "height": 900}, color_scheme="light")
    trouble: list[str] = []

    def guard(route) -> None:
        url = route.request.url
        if url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            trouble.append(f"request to {url}")
            route.abort()

    def answered(response) -> None:
        if response.status >= 400:
            trouble.append(f"{response.status}: {response.url}")

    context.route("**/*", guard)
    view = context.new_page()
    view.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    view.on("pageerror", lambda error: trouble.append(str(error)))
    view.on("response", answered)
    try:
        view.goto(f"{address}/{page}", wait_until="load")
        view.wait_for_function("() => !document.querySelector('.math') || window.MathJax?.startup?.promise")
        view.evaluate("() => window.MathJax?.startup?.promise")
        yield view, trouble
    finally:
        context.close()


@pytest.fixture(scope="session")
def visit(browser, address: str) -> Callable[[str], SimpleNamespace]:
    """visit(page) -> what a browser saw there; each page is opened once."""
    seen: dict[str, SimpleNamespace] = {}

    def look(page: str) -> SimpleNamespace:
        if page in seen:
            return seen[page]
        with opened(browser, address, f"{page}.html") as (view, trouble):
            facts = SimpleNamespace(math=view.evaluate(COUNTS), broken=view.evaluate(BROKEN), illegible={})
            facts.launch = view.evaluate(LINKS, ".bd-header-article a, .article-header-buttons a")
            facts.links = view.evaluate(LINKS, "article a")
            for theme in ("light", "dark"):
                view.evaluate(f"() => {{ document.documentElement.dataset.theme = '{theme}'; }}")
                view.wait_for_timeout(50)
                facts.illegible[theme] = view.evaluate(CONTRAST)
            facts.grounds = view.evaluate(GROUNDS)
            view.set_viewport_size({"width": 400, "height": 800})
            view.wait_for_timeout(300)
            facts.too_wide = view.evaluate(TOO_WIDE)
            facts.trouble = list(trouble)
        seen[page] = facts
        return facts

    return look


@pytest.mark.parametrize("name", [*PAGES, "search", "genindex"])
def test_page_loads_cleanly(visit, name: str) -> None:
    assert visit(name).trouble == []
    assert visit(name).broken == []


def test_first_address_leads_to_the_preface(browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    page.wait_for_url(f"{address}/book/index.html")
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_math_is_typeset(visit, name: str) -> None:
    formulas, typeset, errors = visit(name).math
    assert typeset >= formulas, "some formulas are not typeset"
    assert errors == 0, "MathJax could not read a formula"
    if name in CHAPTERS or name == "book/notation":
        assert formulas > 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_text_is_legible(visit, name: str, theme: str) -> None:
    assert visit(name).illegible[theme] == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_figures_keep_a_white_ground_in_the_dark(visit, name: str) -> None:
    assert set(visit(name).grounds) == {"rgb(255, 255, 255)"}


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_phone(visit, name: str) -> None:
    assert visit(name).too_wide == []


def test_the_reader_can_switch_to_dark(browser, address: str) -> None:
    with opened(browser, address, "book/index.html") as (view, _):
        view.locator(".theme-switch-button").first.wait_for(state="visible")
        modes = []
        for _ in range(3):
            view.locator(".theme-switch-button").first.click()
            modes.append(view.evaluate("() => document.documentElement.dataset.theme"))
        assert {"light", "dark"} <= set(modes)


@pytest.mark.parametrize(("word", "page"), [("leakage", "book/glossary"), ("autism", "book/datasets")])
def test_search_finds(browser, address: str, word: str, page: str) -> None:
    with opened(browser, address, f"search.html?q={word}") as (view, trouble):
        view.wait_for_selector(f"#search-results a[href*='{page}.html']", timeout=15_000)
        assert trouble == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_launch_links_open_this_notebook(visit, name: str) -> None:
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    owner = repository["url"].removeprefix("https://github.com/")
    branch = repository["branch"]
    launch = visit(name).launch
    assert f"https://colab.research.google.com/github/{owner}/blob/{branch}/{name}.ipynb" in launch
    assert f"https://mybinder.org/v2/gh/{owner}/{branch}?urlpath=lab/tree/{name}.ipynb" in launch


@pytest.mark.parametrize("name", CHAPTERS)
def test_links_at_the_top_open_this_notebook(visit, name: str) -> None:
    services = ("colab.research.google.com/", "mybinder.org/v2/")
    launch = [link for link in visit(name).links if any(service in link for service in services)]
    assert all(link.endswith(f"{name}.ipynb") for link in launch), launch
