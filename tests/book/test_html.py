"""What can be said about the pages without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup, Tag

from .conftest import CHAPTERS, PAGES, ROOT

LOADS = [("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"),
         ("audio", "src"), ("embed", "src"), ("object", "data"), ("link", "href"), ("image", "href")]


@cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def page(html: Path, name: str) -> BeautifulSoup:
    return soup(html / f"{name}.html")


def article(html: Path, name: str) -> Tag:
    found = page(html, name).select_one("article.bd-article")
    assert found is not None, f"{name} has no article"
    return found


def frames(document: BeautifulSoup, folder: Path) -> Iterator[BeautifulSoup]:
    """The document and what its iframes hold; their files are looked up in ``folder``."""
    yield document
    for frame in document.select("iframe[src]"):
        yield soup(folder / "_static" / "frames" / Path(str(frame["src"])).name)
    for frame in document.select("iframe[srcdoc]"):
        yield BeautifulSoup(frame["srcdoc"], "html.parser")


def is_remote(address: str | None) -> bool:
    return bool(address) and (urlsplit(address).scheme in ("http", "https") or address.startswith("//"))


@pytest.mark.parametrize("name", PAGES)
def test_page_has_a_title_and_content(html: Path, name: str) -> None:
    body = article(html, name)
    assert len(body.select("h1")) == 1
    assert len(body.get_text(" ", strip=True)) > 300


@pytest.mark.parametrize("name", [*PAGES, "genindex", "search"])
def test_links_inside_the_book_lead_somewhere(html: Path, name: str) -> None:
    here = html / f"{name}.html"
    broken = []
    for link in soup(here).select("a[href]"):
        target = urlsplit(str(link["href"]))
        if target.scheme or target.netloc:
            continue
        file = (here.parent / unquote(target.path)).resolve() if target.path else here.resolve()
        if not file.is_file():
            broken.append(f"{link['href']}: no such file")
        elif target.fragment and file.suffix == ".html" and "Skip" not in link.get_text():
            fragment = unquote(target.fragment)
            if not soup(file).find(id=fragment) and not soup(file).find(attrs={"name": fragment}):
                broken.append(f"{link['href']}: no such place on the page")
    assert not broken


@pytest.mark.parametrize("name", PAGES)
def test_images_have_a_text_alternative(html: Path, name: str) -> None:
    for image in article(html, name).select("img"):
        text = str(image.get("alt", "")).strip()
        assert text, f"{image.get('src')} has no alt text"
        assert not re.search(r"_images|\.(png|svg|jpe?g)$", text), f"alt text of {image['src']}: a file name"


@pytest.mark.parametrize("name", CHAPTERS)
def test_figures_of_cells_have_captions(html: Path, name: str) -> None:
    for image in article(html, name).select(".cell_output img"):
        figure = image.find_parent("figure")
        caption = figure and figure.select_one("figcaption")
        assert caption and caption.get_text(strip=True), f"the figure '{image.get('alt')}' has no caption"


@pytest.mark.parametrize("name", [*PAGES, "search", "index"])
def test_page_loads_nothing_from_the_network(html: Path, name: str) -> None:
    remote = []
    for document in frames(page(html, name), html):
        kinds = {"stylesheet", "preload", "preconnect", "modulepreload"}
        if document is page(html, name):
            kinds.add("icon")  # browsers load no icon for a frame, and nilearn's frames name one
        for tag, attribute in LOADS:
            for element in document.select(f"{tag}[{attribute}]"):
                if tag == "link" and not kinds & set(element.get("rel", [])):
                    continue
                if is_remote(str(element[attribute])):
                    remote.append(f"<{tag}> {element[attribute]}")
        for style in document.select("style"):
            remote += re.findall(r"(?:@import\s+|url\()['\"]?(?:https?:)?//[^'\")\s]+", style.get_text())
    assert not remote


def test_styles_load_nothing_from_the_network(html: Path) -> None:
    remote = {}
    for path in html.rglob("*.css"):
        text = path.read_text(encoding="utf-8", errors="replace")
        if found := re.findall(r"(?:@import\s+['\"]?|url\()['\"]?(?:https?:)?//[^'\")\s]+", text):
            remote[path.name] = found
    assert not remote


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_left_unresolved(html: Path, name: str) -> None:
    body = article(html, name)
    assert not body.select(".problematic, .system-message, .output.traceback")
    text = body.get_text(" ")
    assert not re.search(r"\{(cite|numref|eq|ref|doc)(:\w)?\}", text)
    assert "Traceback (most recent call last)" not in text
    assert not re.search(r"\[\?\w+\]|\?\?", text), "an unresolved reference"


@pytest.mark.parametrize("name", PAGES)
def test_page_names_no_folder_of_the_builder(html: Path, name: str) -> None:
    text = article(html, name).get_text(" ")
    assert str(ROOT) not in text
    assert not re.search(r"/(home|root|Users)/\w+", text)
