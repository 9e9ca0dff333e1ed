"""The pages that the build makes: quizzes, exercises, audits, results, status, cards, contents."""

from __future__ import annotations

import base64
import copy
import io
import re
import runpy
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import build, chapters, coursework, pages, records
from helpers.errors import BookError
from helpers.evaluate import Estimate

ROOT = Path(__file__).resolve().parents[2]
NAMES = chapters.names()
ABOUT = pages.about(ROOT)


# ---------------------------------------------------------------- the book's own files


@pytest.mark.parametrize("name", NAMES)
def test_every_chapter_is_described(name: str) -> None:
    assert name in ABOUT
    figures = [
        cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in chapters.read(name).cells
    ]
    assert ABOUT[name]["picture"] in figures
    assert len(pages.alt(chapters.read(name), ABOUT[name]["picture"])) > 30
    assert 1 <= ABOUT[name]["level"] <= 3


@pytest.mark.parametrize("name", [name for name in NAMES if "evidence" in ABOUT.get(name, {})])
def test_the_evidence_names_metrics_that_exist(name: str) -> None:
    found = [record for profile in records.PROFILES if (record := records.load(name, profile))]
    if not found:
        pytest.skip("no committed record yet")
    for row in ABOUT[name]["evidence"]["rows"]:
        assert any(row["metric"] in record.metrics for record in found), row["metric"]


@pytest.mark.parametrize("name", NAMES)
def test_quiz_is_complete(name: str) -> None:
    questions = pages.quiz(ROOT, name)
    asked = [item["question"] for item in questions]
    assert len(set(asked)) == 5
    for item in questions:
        assert item["question"].strip().endswith("?")
        assert len({answer["text"] for answer in item["answers"]}) == len(item["answers"])
        for answer in item["answers"]:
            assert len(answer["why"].split()) >= 3, answer["text"]


def test_the_right_answer_is_not_always_in_one_place() -> None:
    places = Counter(
        [bool(a.get("right")) for a in pages.shuffled(item)].index(True)
        for name in NAMES
        for item in pages.quiz(ROOT, name)
    )
    assert len(places) == 3 and min(places.values()) >= places.total() / 6


@pytest.mark.parametrize("name", NAMES)
def test_practice_page_shows_tasks_and_folds_solutions(name: str) -> None:
    text = pages.practice(ROOT, name, "Title: more")
    assert text.startswith("# Practice: Title\n")
    assert text.count("{dropdown} Solution") == 3
    assert text.count("**Right.**") == 5
    assert "HIDDEN" not in text and "BEGIN SOLUTION" not in text
    hidden = [
        line
        for cell in coursework.read(name).cells
        if coursework.kind(cell) == "check"
        for line in cell.source.split("### BEGIN HIDDEN TESTS")[1:]
    ]
    assert hidden and not any(part.split("### END")[0].strip() in text for part in hidden)


@pytest.mark.parametrize("name", NAMES)
def test_the_copy_to_download_is_what_nbgrader_would_release(name: str) -> None:
    pytest.importorskip("nbgrader")
    ours, theirs = pages.handout(coursework.read(name)), coursework.student(coursework.read(name))
    assert [c.source.rstrip() for c in ours.cells] == [c.source.rstrip() for c in theirs.cells]


def test_method_chapters_have_an_audit_table() -> None:
    assert [name for name in NAMES[2:] if not pages.audit_tables(chapters.read(name))] == []


def test_contents_hold_a_practice_page_for_each_chapter() -> None:
    names = build.chapters_of(ROOT)
    listed = pages.files(pages.contents(ROOT, names))
    for name in names:
        assert listed.index(f"practice/{name}") == listed.index(f"notebooks/{name}") + 1


# ---------------------------------------------------------------- made from small things

GOOD = [
    {
        "question": f"{n}?",
        "answers": [{"text": "a", "why": "because"}, {"text": "b", "why": "so", "right": True}],
    }
    for n in range(5)
]


def broken_quizzes() -> dict[str, object]:
    made = {
        name: copy.deepcopy(GOOD) for name in ("two right", "none right", "no why", "one answer", "odd key")
    }
    made["two right"][1]["answers"][0]["right"] = True
    del made["none right"][2]["answers"][1]["right"]
    del made["no why"][0]["answers"][0]["why"]
    made["one answer"][4]["answers"].pop(0)
    made["odd key"][0]["hint"] = "x"
    return made | {"four": GOOD[:4], "empty": None}


@pytest.mark.parametrize("case", broken_quizzes())
def test_a_broken_quiz_is_refused(tmp_path: Path, case: str) -> None:
    file = tmp_path / "book" / "quizzes" / "03_tiny.yml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(broken_quizzes()[case]))
    with pytest.raises(BookError, match=r"quizzes/03_tiny\.yml"):
        pages.quiz(tmp_path, "03_tiny")


def test_a_missing_quiz_says_so(tmp_path: Path) -> None:
    with pytest.raises(BookError, match="not there"):
        pages.quiz(tmp_path, "03_tiny")


ENTRY = {"short": "Tiny", "line": "x", "picture": "fig-a", "level": 1}
ROWS = [
    {"name": "ours", "metric": "a_auc", "is": "method"},
    {"name": "plain", "metric": "b_auc", "is": "baseline"},
]
EVIDENCE = {
    "question": "q",
    "scale": "AUC",
    "chance": 0.5,
    "data": {"embedded": "simulated"},
    "claim": "c",
    "rows": ROWS,
}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"line": "x"}, "needs short"),
        (ENTRY | {"evidence": {"question": "q"}}, "its evidence needs"),
        (ENTRY | {"evidence": EVIDENCE | {"rows": [{"name": "x"}]}}, "a row needs"),
        (ENTRY | {"evidence": EVIDENCE | {"rows": ROWS[:1]}}, "beside a baseline"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, entry: dict, said: str) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "chapters.yml").write_text(yaml.safe_dump({"03_tiny": entry}))
    with pytest.raises(BookError, match=said):
        pages.about(tmp_path)


class Fake:
    """What the pages read of a record."""

    def metric(self, name: str) -> Estimate | None:
        return Estimate(0.7, 0.6, 0.8) if name == "a_auc" else None


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "chapters.yml").write_text(
        yaml.safe_dump({"03_tiny": ENTRY | {"evidence": EVIDENCE}})
    )
    monkeypatch.setattr(
        pages, "record_of", lambda chapter, profile: Fake() if profile == "embedded" else None
    )
    return tmp_path


def test_results_stand_beside_the_baseline(tiny: Path) -> None:
    text = pages.results(tiny, ["03_tiny"], {"03_tiny": "Tiny"})
    assert "| ours | method | 0.70 [0.60, 0.80] | not run | not run at full scale |" in text
    assert "| plain | baseline | not recorded |" in text
    assert "Chance is 0.5" in text


def test_the_picture_of_the_evidence_is_the_same_each_time(tiny: Path) -> None:
    rows = pages.evidence_rows(tiny, ["03_tiny"], {"03_tiny": "Tiny"})
    assert [(row["name"], row["profile"]) for row in rows] == [("ours", "embedded")]
    first, second = pages.evidence_picture(rows), pages.evidence_picture(rows)
    assert first == second and first.startswith(b"<?xml")


def test_audits_take_the_tables_that_compare() -> None:
    head = "| point | paper | public code | here, and why |\n|---|---|---|---|\n"
    table = f"{head}| a | b | c | d |\n| e | f | g | h |"
    other = "| symbol | meaning |\n|---|---|\n| x | y |"
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Tiny: a title"),
            new_markdown_cell(f"x\n\n{table}\n\ny"),
            new_markdown_cell(other),
        ]
    )
    assert pages.audit_tables(notebook) == [table]
    text = pages.audits({"03_tiny": notebook})
    assert "## Tiny\n" in text and "2 points" in text and "symbol" not in text


def test_a_picture_comes_from_the_figure_of_that_name() -> None:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (960, 480), "white").save(out, "PNG")
    output = new_output("display_data", data={"image/png": base64.b64encode(out.getvalue()).decode()})
    cell = new_code_cell("x", outputs=[output], metadata={"mystnb": {"figure": {"name": "fig-a"}}})
    notebook = new_notebook(cells=[new_markdown_cell("# Tiny"), cell])
    assert Image.open(io.BytesIO(pages.picture(notebook, "fig-a"))).size == (480, 240)
    with pytest.raises(BookError, match="no picture fig-b"):
        pages.picture(notebook, "fig-b")


def test_interactive_views_move_out_of_the_page() -> None:
    view = "<p><iframe title='brain' srcdoc='<p class=&quot;x&quot;>it&#39;s</p>' width='9%'></iframe>"
    output = new_output("display_data", data={"text/html": view})
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[output])])
    ((name, document),) = pages.frames(notebook).items()
    assert document == b"""<p class="x">it's</p>"""
    left = notebook.cells[0].outputs[0].data["text/html"]
    assert "srcdoc" not in left and name.removeprefix("book/static/") in left and "title='brain'" in left
    assert "width='9%'" in left
    assert pages.frames(notebook) == {}


def test_recorded_metrics_are_folded_by_chapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No run record" in pages.recorded(tmp_path)
    file = tmp_path / "runs" / "03_tiny" / "public.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    fake = Fake()
    fake.chapter, fake.profile, fake.metrics = "03_tiny", "public", {"a_auc": 0.7, "a_auc_lo": 0.6, "n": 3}
    monkeypatch.setattr(records, "read", lambda path: fake)
    monkeypatch.setattr(records, "state", lambda record: "current")
    text = pages.recorded(tmp_path)
    assert "03_tiny, public: 1 metrics, current" in text and "| a_auc | 0.70 [0.60, 0.80] |" in text


def test_a_book_without_descriptions_gets_no_pages(tmp_path: Path) -> None:
    assert (
        pages.generated(
            tmp_path, {"03_tiny": nbformat.v4.new_notebook()}, {"book/x.md": b"<!-- results -->"}
        )
        == {}
    )


def test_the_glossary_becomes_words_with_meanings() -> None:
    words = pages.glossary((ROOT / "book" / "glossary.md").read_text(encoding="utf-8"))
    assert words["atlas"]["text"].startswith("A division of the brain")
    assert words["FC"] == words["functional connectivity"] | {"exact": True}
    assert words["gradient"]["id"] == "term-gradient-of-connectivity"
    assert all("{" not in entry["text"] and len(entry["text"]) > 20 for entry in words.values())
    assert pages.glossary("# Nothing here") == {}


def test_mark_and_cover_are_what_the_code_draws() -> None:
    drawn = runpy.run_path(str(ROOT / "scripts" / "cover.py"))
    for name in ("mark", "cover"):
        assert (ROOT / "book" / "static" / f"{name}.svg").read_text(encoding="utf-8") == drawn[name]()


def test_every_error_of_ours_has_a_line_in_troubleshooting() -> None:
    text = (ROOT / "book" / "troubleshooting.md").read_text(encoding="utf-8")
    assert pages.mark("errors") in text
    package = ROOT / "src" / "helpers"
    listed, page = pages.messages(package), pages.errors(package)
    assert sum(
        page.count(f"\n- {pages._plain(text)}\n") >= 1 for texts in listed.values() for text in texts
    ) == sum(map(len, listed.values()))
    for file in package.rglob("*.py"):
        if re.search(r"raise (BookError|MissingData)\(", file.read_text(encoding="utf-8")):
            assert ".".join(file.relative_to(package).with_suffix("").parts) in listed, file


def test_messages_are_read_from_the_code(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        'raise BookError(f"no {x} here: " + "add it")\nraise BookError("a bad" if y else "c")\n'
        'raise BookError(str(e))\nraise ValueError("no")\ndef f():\n    return MissingData("gone: get it")\n'
    )
    assert sorted(pages.messages(tmp_path)["m"]) == ["a bad", "gone: get it", "no ... here: add it"]


# ---------------------------------------------------------------- notation

GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi"
    " varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell"
).split()


def letters(tex: str) -> set[str]:
    """Letters of a formula that stand for something: Latin ones and Greek commands, without upright words."""
    upright = r"\\(?:mathrm|text|operatorname|begin|end)\*?\s*\{[^{}]*\}(?:\{[^{}]*\})?"
    tex = re.sub(upright, " ", tex)
    greek = {command for command in re.findall(r"\\([A-Za-z]+)", tex) if command in GREEK}
    return greek | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", tex)))


def declared(text: str) -> set[str]:
    """Letters in the formulas of a text, and single letters written as code."""
    formulas = re.findall(r"\$([^$]+)\$", text)
    return set().union(*map(letters, formulas), re.findall(r"`([A-Za-z])`", text))


@pytest.mark.parametrize("name", NAMES)
def test_every_symbol_of_a_displayed_formula_is_in_the_notation(name: str) -> None:
    notebook = chapters.read(name)
    assert pages.symbol_tables(notebook), "a chapter declares its notation in a table"
    shown = pages.symbols(ROOT, {name: notebook}, {name: "x"})
    known = declared(shown) | declared((ROOT / "book" / "notation.md").read_text(encoding="utf-8"))
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    used = set().union(*map(letters, re.findall(r"\$\$(.*?)\$\$", prose, flags=re.S)))
    assert used - known == set()


def test_a_missing_symbol_would_be_noticed() -> None:
    assert letters(r"\mathrm{corr}(x)+\bar\theta_{\text{new}}") == {"x", "theta"}
    assert declared("| $x$ | it |") == {"x"}
    table = "| symbol | meaning | shape |\n|---|---|---|\n| $|x|$ | its size | |"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(table)])
    assert pages.symbol_tables(notebook) == ["| $|x|$ | its size |"]


def test_symbols_are_listed_for_chapters_that_exist() -> None:
    extra = yaml.safe_load((ROOT / "book" / "symbols.yml").read_text(encoding="utf-8"))
    assert set(extra) <= {"all", *NAMES}


def test_the_changelog_is_shown_without_its_title(tmp_path: Path) -> None:
    assert pages.changelog(ROOT).startswith("## ")
    assert pages.changelog(tmp_path) == "Nothing yet.\n"


# ---------------------------------------------------------------- data sets

DATASETS = yaml.safe_load((ROOT / "book" / "datasets.yml").read_text(encoding="utf-8"))
DATASETS_TEXT = (ROOT / "book" / "datasets.md").read_text(encoding="utf-8")


def test_every_data_set_has_a_page_with_what_a_reader_needs() -> None:
    made = pages.dataset_pages(ROOT, DATASETS_TEXT, {name: name for name in NAMES})
    assert list(made) == list(DATASETS)
    for name, text in made.items():
        assert text.startswith(f"# {DATASETS[name]['section']}\n")
        for said in ("**Stand-in.**", "**Used in.**", "licence"):
            assert said in text, (name, said)
        words = text.lower()
        assert any(word in words for word in ("known problems", "trusts", "loader says")), name
        assert any(word in words for word in ("**access.**", "download", "the reader")), name


def test_every_section_and_every_column_is_on_a_page() -> None:
    sections = re.findall(r"^#{2,3} (.+)$", DATASETS_TEXT, flags=re.M)
    groups = {
        "Regional series and EEG",
        "People with fMRI and EEG",
        "Images: slices, volumes and pairs",
        "Templates",
    }
    assert set(sections) - groups == {entry["section"] for entry in DATASETS.values()}
    heads = re.findall(r"^\| \|(.+)\|$", DATASETS_TEXT, flags=re.M)
    columns = {cell.strip() for head in heads for cell in head.split("|")}
    assert columns == {column for entry in DATASETS.values() for column in entry["columns"]}


def test_the_overview_keeps_tables_and_drops_what_has_a_page() -> None:
    text = pages.dataset_overview(ROOT, DATASETS_TEXT)
    assert "[](../datasets/abide.md)" in text and "| NetSim |" in text
    assert "Head motion differs" not in text and "## Templates" in text


def test_a_wrong_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    file = tmp_path / "book" / "datasets.yml"
    entry = {"section": "Digits", "columns": ["Audiovision-MNIST"], "chapters": [], "standin": "x"}
    for change, said in (({"section": "Nothing"}, "no section"), ({"columns": ["x"]}, "no table")):
        file.write_text(yaml.safe_dump({"digits": entry | change}))
        with pytest.raises(BookError, match=said):
            pages.dataset_pages(tmp_path, DATASETS_TEXT, {})
