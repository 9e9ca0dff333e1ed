"""Pages made from the chapters, their records and their exercises; ``helpers.build`` stages them.

Nothing here executes a chapter and nothing holds a result: numbers come from run records, claims and names
from ``book/chapters.yml``, questions from ``book/quizzes``, exercises from ``notebooks/exercises``. A new
chapter gets its pages by being in ``_toc.yml`` and in ``book/chapters.yml``.
"""

from __future__ import annotations

import ast
import base64
import copy
import hashlib
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from . import coursework, paths, records
from .errors import BookError, MissingData

_LEVELS = {1: "★☆☆ easy", 2: "★★☆ medium", 3: "★★★ hard"}
_ROLES = {"method", "baseline", "other"}
_ABOUT = {"short", "line", "picture", "level", "evidence"}
_EVIDENCE = {"question", "scale", "chance", "data", "claim", "rows"}


def mark(name: str) -> str:
    """What a page holds where ``name`` is put in."""
    return f"<!-- {name} -->"


# ---------------------------------------------------------------- sources

def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingData(f"{path.parent.name}/{path.name} is not there: every chapter needs one") from None
    except yaml.YAMLError as error:
        raise BookError(f"{path.parent.name}/{path.name} is not YAML: {error}") from error


def about(root: Path) -> dict[str, dict[str, Any]]:
    """``book/chapters.yml``: what the pages say about each chapter. Raises BookError for a wrong entry."""
    found = _yaml(root / "book" / "chapters.yml") or {}
    for name, entry in found.items():
        here = f"book/chapters.yml: {name}"
        if not isinstance(entry, dict) or not _ABOUT - {"evidence"} <= set(entry) <= _ABOUT:
            raise BookError(f"{here}: it needs short, line, picture and level, and may have evidence")
        evidence = entry.get("evidence")
        if evidence is None:
            continue
        if set(evidence) != _EVIDENCE:
            raise BookError(f"{here}: its evidence needs {', '.join(sorted(_EVIDENCE))}, and nothing else")
        for row in evidence["rows"]:
            if set(row) != {"name", "metric", "is"} or row["is"] not in _ROLES:
                raise BookError(f"{here}: a row needs name, metric and is (method, baseline or other)")
        if {"method", "baseline"} - {row["is"] for row in evidence["rows"]}:
            raise BookError(f"{here}: the method stands beside a baseline, always")
    return found


def _entry(everything: Mapping[str, dict], chapter: str) -> dict[str, Any]:
    if chapter not in everything:
        raise BookError(f"book/chapters.yml has no entry for {chapter}: add one")
    return everything[chapter]


def quiz(root: Path, chapter: str) -> list[dict[str, Any]]:
    """The five questions of a chapter. Raises BookError when the file breaks the rules."""
    where = f"book/quizzes/{chapter}.yml"
    questions = _yaml(root / where)
    if not isinstance(questions, list) or len(questions) != 5:
        raise BookError(f"{where}: a quiz has five questions")
    for number, item in enumerate(questions, start=1):
        here = f"{where}, question {number}"
        if set(item) != {"question", "answers"} or not 2 <= len(item["answers"]) <= 5:
            raise BookError(f"{here}: it needs a question and two to five answers")
        for answer in item["answers"]:
            if not {"text", "why"} <= set(answer) <= {"text", "why", "right"}:
                raise BookError(f"{here}: an answer needs text and why, and may say right: true")
        if sum(answer.get("right", False) is True for answer in item["answers"]) != 1:
            raise BookError(f"{here}: exactly one answer is right")
    return questions


def title(notebook: NotebookNode) -> str:
    """The title of a chapter, the first line of its first cell."""
    return notebook.cells[0].source.splitlines()[0].lstrip("# ").strip()


def record_of(chapter: str, profile: str) -> records.Record | None:
    """The record a page shows: for the embedded profile this build's own run, else the committed one."""
    if profile == "embedded":
        try:
            return records.read(paths.runs_root() / chapter / profile / records.RECORD)
        except (MissingData, BookError):
            pass
    return records.load(chapter, profile)


# ---------------------------------------------------------------- quiz and exercises

def _dropdown(head: str, body: str, kind: str = "") -> str:
    extra = f":class-container: {kind}\n" if kind else ""
    return f"::::{{dropdown}} {head}\n{extra}\n{body}\n::::\n"


def _code(source: str) -> str:
    return f"```python\n{source.rstrip()}\n```\n"


def handout(notebook: NotebookNode) -> NotebookNode:
    """A student's copy without nbgrader's help: no solutions, no hidden tests (``coursework.student``)."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if coursework.kind(cell) == "solution":
            cell.source = coursework.stub(cell.source)
        elif coursework.kind(cell) == "check":
            cell.source = coursework.visible(cell.source)
    return notebook


def shuffled(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers of a question in an order that tells nothing, the same in each build."""
    return sorted(item["answers"], key=lambda answer: hashlib.sha256(answer["why"].encode()).digest())


def quiz_text(questions: Sequence[Mapping[str, Any]]) -> str:
    """MyST of a quiz. Each answer is a fold that says why it is right or wrong: no script, works by key."""
    out = ["Open the answer that you would give.\n"]
    for number, item in enumerate(questions, start=1):
        out.append(f"**{number}. {item['question'].strip()}**\n")
        for answer in shuffled(item):
            verdict = "**Right.**" if answer.get("right") else "**Not quite.**"
            out.append(_dropdown(answer["text"].strip(), f"{verdict} {answer['why'].strip()}", "quiz-answer"))
    return "\n".join(out)


def exercises_text(notebook: NotebookNode) -> str:
    """MyST of an assignment: the tasks, what is given, the visible checks, the solutions folded."""
    out = []
    for cell in coursework.setting(notebook):
        if coursework.kind(cell) == "given" and "google.colab" not in cell.source:
            out.append(_dropdown("Set-up", _code(cell.source)))
    for exercise in coursework.exercises(notebook):
        for cell in exercise.cells:
            kind = coursework.kind(cell)
            if kind == "text":
                out.append(re.sub(r"^## ", "### ", cell.source) + "\n")
            elif kind == "given":
                out.append(_code(cell.source))
            elif kind == "solution":
                out.append(_code(coursework.stub(cell.source)))
        checks = "\n\n".join(coursework.visible(cell.source) for cell in exercise.checks)
        out.append(_dropdown("Checks that you see", _code(checks)))
        out.append(_dropdown("Solution", _code(coursework.solved(exercise.solution.source)), "solution"))
    return "\n".join(out)


def practice(root: Path, chapter: str, heading: str) -> str:
    """The page *Practice* of a chapter: quiz, then exercises."""
    questions = quiz(root, chapter)
    assignment = coursework.read(chapter)
    return "\n".join([
        f"# Practice: {heading.partition(':')[0]}\n",
        f"Five questions and three exercises on [the chapter](../notebooks/{chapter}.ipynb). All of it works"
        " offline; nothing is sent anywhere.\n",
        "## Quiz\n", quiz_text(questions),
        "## Exercises\n",
        f"Work on them in a notebook: {{download}}`{chapter}_exercises.ipynb"
        f" <{chapter}_exercises.ipynb>`"
        " holds the tasks without the solutions. Each exercise runs in seconds."
        " [](../book/teaching.md) says how they are marked.\n",
        exercises_text(assignment),
    ])


# ---------------------------------------------------------------- audits

def audit_tables(notebook: NotebookNode) -> list[str]:
    """The tables of a chapter that set paper, public code and this book side by side."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for table in re.findall(r"(?:^\|.*\|[ ]*\n?)+", cell.source, flags=re.M):
            head = table.splitlines()[0].lower()
            if "here" in head and ("paper" in head or "public code" in head):
                found.append(table.strip())
    return found


def audits(notebooks: Mapping[str, NotebookNode]) -> str:
    """MyST: each chapter's table of what the paper says, what public code does, and what is done here."""
    out = []
    for chapter, notebook in notebooks.items():
        if tables := audit_tables(notebook):
            out.append(f"## {title(notebook).partition(':')[0]}\n")
            rows = sum(len(table.splitlines()) - 2 for table in tables)
            out.append(f"{rows} points, from [the chapter](../notebooks/{chapter}.ipynb), which demonstrates"
                       " those that can be demonstrated.\n")
            out += [table + "\n" for table in tables]
    return "\n".join(out) or "No chapter has such a table yet.\n"


# ---------------------------------------------------------------- results

def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def results(root: Path, chapters: Sequence[str], titles: Mapping[str, str]) -> str:
    """MyST: for each chapter the paper's claim, then ours at each profile beside the baseline."""
    out, everything = [], about(root)
    for chapter in chapters:
        evidence = _entry(everything, chapter).get("evidence")
        if not evidence:
            continue
        found = {profile: record_of(chapter, profile) for profile in records.PROFILES}
        out.append(f"## {titles[chapter]}\n")
        chance = f" Chance is {evidence['chance']}." if evidence["chance"] is not None else ""
        out.append(f"**Asked:** {evidence['question']}, in {evidence['scale']}.{chance}\n")
        out.append(f"**The paper:** {evidence['claim']}\n")
        heads = [f"{p}: {evidence['data'][p]}" if p in evidence["data"] else p for p in records.PROFILES]
        out.append("| | role | " + " | ".join(heads) + " |\n|---|---|" + "---|" * len(found))
        for row in evidence["rows"]:
            values = [_cell(r.metric(row["metric"])) or "not recorded" if r else records.NOT_RUN[profile]
                      for profile, r in found.items()]
            out.append(f"| {row['name']} | {row['is']} | {' | '.join(values)} |")
        out.append(f"\nFrom [the chapter](../notebooks/{chapter}.ipynb).\n")
    return "\n".join(out)


def evidence_rows(root: Path, chapters: Sequence[str], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every number with an interval that ``book/chapters.yml`` names, for the picture of all of them."""
    rows, everything = [], about(root)
    for chapter in chapters:
        evidence = _entry(everything, chapter).get("evidence")
        for profile in ("embedded", "public", "full") if evidence else ():
            record = record_of(chapter, profile)
            for row in evidence["rows"] if record else ():
                value = record.metric(row["metric"])
                if hasattr(value, "lo"):
                    about_row = {key: evidence[key] for key in ("scale", "chance")} | row
                    data = evidence["data"].get(profile, "your own data")
                    rows.append({"chapter": titles[chapter], "profile": profile, "data": data, **about_row,
                                 "value": value})
    return rows


def evidence_picture(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """SVG: a dot and interval a row, chapter by chapter; squares are baselines, open marks simulated data."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from .plot import COLOURS

    looks = {"method": ("o", COLOURS["method"]), "baseline": ("s", "#595959"), "other": ("D", "#b35900")}
    lines: dict[str, list[Any]] = {}  # of each scale: a heading (text), or a row
    for row in rows:
        mine = lines.setdefault(row["scale"], [])
        heading = f"{row['chapter']}, {row['data']}"
        if heading not in mine:
            mine.append(heading)
        mine.append(row)
    with rc_context({"svg.hashsalt": "book", "svg.fonttype": "path", "font.size": 9}):
        height = 0.21 * sum(map(len, lines.values())) + 0.7 * len(lines)
        figure = Figure(figsize=(6.4, height), layout="constrained")
        ratios = [len(mine) + 2 for mine in lines.values()]
        axes = figure.subplots(len(lines), 1, height_ratios=ratios, squeeze=False)[:, 0]
        for ax, (scale, mine) in zip(axes, lines.items(), strict=True):
            chance = next(row["chance"] for row in mine if not isinstance(row, str))
            for y, row in enumerate(mine):
                if isinstance(row, str):
                    continue
                marker, colour = looks[row["is"]]
                value, fill = row["value"], "white" if "simulated" in row["data"] else colour
                ax.plot([value.lo, value.hi], [-y, -y], color=colour, lw=1.6)
                ax.plot(value.value, -y, marker, color=colour, ms=5.5, mfc=fill)
            ax.set_yticks([-y for y in range(len(mine))],
                          [row if isinstance(row, str) else row["name"] for row in mine])
            for label, row in zip(ax.get_yticklabels(), mine, strict=True):
                label.set_fontweight("bold" if isinstance(row, str) else "normal")
            if chance is not None:
                ax.axvline(chance, color="black", ls="--", lw=0.8)
            ax.set(xlabel=scale, ylim=(0.7 - len(mine), 0.7))
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="x", color="0.9", lw=0.6)
            ax.set_axisbelow(True)
            ax.spines[["top", "right", "left"]].set_visible(False)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, facecolor="white")
    return out.getvalue()


def recorded(root: Path) -> str:
    """MyST: every metric with an interval of the committed records, a fold for each chapter and profile."""
    out = []
    for path in sorted((root / "runs").glob("*/*.json")):
        record = records.read(path)
        names = [name for name in record.metrics if f"{name}_lo" in record.metrics]
        rows = [f"| {name} | {record.metric(name)} |" for name in names]
        if rows:
            table = "\n".join(["| metric | value and 95 % interval |", "|---|---|", *rows])
            head = f"{record.chapter}, {record.profile}: {len(rows)} metrics, {records.state(record)}"
            out.append(_dropdown(head, table))
    return "\n".join(out) or "No run record is committed yet.\n"


# ---------------------------------------------------------------- status and cards

def status(chapters: Sequence[str], titles: Mapping[str, str]) -> str:
    """MyST table: what each profile of each chapter took, on which machine, and whether it is current."""
    rows = ["| chapter | profile | time | memory | machine | date | state |", "|---|---|---|---|---|---|---|"]
    for chapter in chapters:
        for profile in records.PROFILES:
            record = record_of(chapter, profile)
            name = f"[{titles[chapter]}](../notebooks/{chapter}.ipynb)"
            if record is None:
                rows.append(f"| {name} | {profile} | | | | | {records.NOT_RUN[profile]} |")
            else:
                cells = (records.seconds(record.wall_seconds), records.memory(record.peak_memory_mb))
                time, memory = (cell.replace(" ", "\u00a0") for cell in cells)
                date = record.created_utc[:10].replace("-", "\u2011")  # these three stay on one line
                rows.append(f"| {name} | {profile} | {time} | {memory} | {record.machine} |"
                            f" {date} | {records.state(record)} |")
    return "\n".join(rows) + "\n"


def versions(chapters: Sequence[str]) -> str:
    """MyST table: the packages of the shown runs; more than one version where runs differ."""
    found: dict[str, set[str]] = {}
    for chapter in chapters:
        for profile in records.PROFILES:
            if record := record_of(chapter, profile):
                for package, version in record.versions.items():
                    found.setdefault(package, set()).add(version)
    rows = [f"| {package} | {', '.join(sorted(found[package]))} |" for package in sorted(found)]
    return "\n".join(["| package | version |", "|---|---|", *rows]) + "\n"


def _png(cell: NotebookNode) -> str | None:
    """The first picture among the outputs of a cell, base64."""
    outputs = cell.get("outputs", []) if cell.cell_type == "code" else []
    return next((png for output in outputs if (png := output.get("data", {}).get("image/png"))), None)


def picture(notebook: NotebookNode, name: str, width: int = 480) -> bytes:
    """The figure ``name`` of an executed chapter as a small PNG; where it drew nothing, the first that did.

    Raises BookError when the chapter has no figure of that name, or none at all.
    """
    named = [c for c in notebook.cells if c.metadata.get("mystnb", {}).get("figure", {}).get("name") == name]
    png = next(filter(None, map(_png, [*named, *notebook.cells])), None)
    if not named or png is None:
        raise BookError(f"book/chapters.yml: {title(notebook)!r} has no picture {name}: name another")
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    size = (width, round(image.height * width / image.width))
    out = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).quantize(96).save(out, "PNG", optimize=True)
    return out.getvalue()


def alt(notebook: NotebookNode, name: str) -> str:
    """What the figure ``name`` of a chapter shows, in words."""
    for cell in notebook.cells:
        said = cell.metadata.get("mystnb", {})
        if said.get("figure", {}).get("name") == name:
            return " ".join(str(said.get("image", {}).get("alt", "")).split())
    return ""


def cards(root: Path, notebooks: Mapping[str, NotebookNode], titles: Mapping[str, str]) -> str:
    """MyST grid: a card a chapter with picture, line, difficulty, time and memory."""
    out, everything = [":::::{grid} 1 1 2 2\n:gutter: 3\n:class-container: chapter-cards\n"], about(root)
    for chapter, notebook in notebooks.items():
        entry = _entry(everything, chapter)
        record = record_of(chapter, "embedded")
        took = ""
        if record:
            took = f" · {records.seconds(record.wall_seconds)}, {records.memory(record.peak_memory_mb)}"
        out.append(f"::::{{grid-item-card}} {titles[chapter]}\n"
                   f":link: ../notebooks/{chapter}\n:link-type: doc\n"
                   f":img-top: cards/{chapter}.png\n:img-alt: {alt(notebook, entry['picture'])}\n\n"
                   f"{entry['line']}\n\n:::{{card-footer}}\n"
                   f"{_LEVELS[entry['level']]}{took}\n:::\n::::\n")
    return "\n".join([*out, ":::::\n"])


# ---------------------------------------------------------------- data sets

def _sections(text: str) -> dict[str, tuple[int, int]]:
    """Where each section (level two or three) begins and the next one follows, its heading included."""
    heads = list(re.finditer(r"^#{2,3} (.+)$", text, flags=re.M))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    return {head.group(1): (head.start(), end) for head, end in zip(heads, ends, strict=True)}


def _facts(text: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """Rows of the tables that have these columns: name of the row -> one cell a column."""
    found: dict[str, list[str]] = {}
    for table in re.findall(r"(?:^\|.*\|[ ]*\n?)+", text, flags=re.M):
        head, _, *rows = table.strip().splitlines()
        names = _cells(head)
        if set(columns) <= set(names):
            at = [names.index(column) for column in columns]
            found |= {_cells(row)[0]: [_cells(row)[k] for k in at] for row in rows}
    return found


def dataset_pages(root: Path, text: str, titles: Mapping[str, str]) -> dict[str, str]:
    """MyST of a page for each entry of ``book/datasets.yml``, from the page of all data sets.

    Raises BookError for a section or column that ``text`` does not have, or a page that lacks a fact.
    """
    made, where = {}, _sections(text)
    for name, entry in _yaml(root / "book" / "datasets.yml").items():
        here = f"book/datasets.yml: {name}"
        if entry["section"] not in where:
            raise BookError(f"{here}: book/datasets.md has no section {entry['section']!r}")
        start, end = where[entry["section"]]
        body = text[start:end].split("\n", 1)[1].strip()
        facts = _facts(text, entry["columns"])
        if not facts:
            raise BookError(f"{here}: no table of book/datasets.md has the columns {entry['columns']}")
        n = len(entry["columns"])
        for key, value in (entry.get("facts") or {}).items():
            facts[key] = [value] + [""] * (n - 1) if key not in facts or n == 1 else facts[key]
        missing = {"licence", "size", "people"} - {key.split()[0] for key in facts}
        if missing - ({"people"} if facts.keys() & {"pairs"} else set()):
            raise BookError(f"{here}: its page lacks {', '.join(sorted(missing))}: add facts")
        body = re.sub(r"(?:^\|.*\|[ ]*\n?)+", "", body, flags=re.M).strip()
        body = re.sub(r"\]\((\w+\.md)", r"](../book/\1", body)  # the page lies in another folder
        users = [f"[{titles[c]}](../notebooks/{c}.ipynb)" for c in entry["chapters"] if c in titles]
        rows = [f"| {key} | {' | '.join(values)} |" for key, values in facts.items()]
        made[name] = "\n".join([
            f"# {entry['section']}\n", f"| | {' | '.join(entry['columns'])} |", "|---" * (n + 1) + "|", *rows,
            f"\n**Used in.** {', '.join(users) or 'your own experiments'}.\n",
            f"**Stand-in.** {entry['standin']}\n", body, ""])
    return made


def dataset_overview(root: Path, text: str) -> str:
    """The page of all data sets without the sections that have pages of their own; their tables stay."""
    entries = _yaml(root / "book" / "datasets.yml")
    where = _sections(text)
    for entry in sorted(entries.values(), key=lambda e: -where[e["section"]][0]):
        start, end = where[entry["section"]]
        body = text[start:end]
        tables = list(re.finditer(r"(?:^\|.*\|[ ]*\n?)+", body, flags=re.M))
        kept = body[: tables[-1].end()] + "\n" if tables else ""
        text = text[:start] + kept + text[end:]
    links = "\n".join(f"- [](../datasets/{name}.md)" for name in entries)
    return text.replace(mark("datasets"), links)


# ---------------------------------------------------------------- symbols

def symbol_tables(notebook: NotebookNode) -> list[str]:
    """The rows (symbol, meaning) of a chapter's notation tables, as ``| symbol | meaning |``."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for table in re.findall(r"(?:^\|.*\|[ ]*\n?)+", cell.source, flags=re.M):
            head, _, *rows = table.strip().splitlines()
            if head.lower().lstrip("| ").startswith("symbol"):
                found += [f"| {' | '.join(_cells(row)[:2])} |" for row in rows]
    return found


def _cells(row: str) -> list[str]:
    """Cells of a table's row; a bar inside a formula or code separates nothing."""
    kept = re.sub(r"\$[^$]*\$|`[^`]*`", lambda m: m.group().replace("|", "\0"), row.strip().strip("|"))
    return [cell.strip().replace("\0", "|") for cell in kept.split("|")]


def symbols(root: Path, notebooks: Mapping[str, NotebookNode], titles: Mapping[str, str]) -> str:
    """MyST: the symbols of every chapter, its own table and what its formulas introduce themselves."""
    extra, head = _yaml(root / "book" / "symbols.yml"), "| symbol | meaning |\n|---|---|"
    rows = [f"| {symbol} | {meaning} |" for symbol, meaning in extra["all"].items()]
    out = ["### In every chapter\n", head, *rows, ""]
    for chapter, notebook in notebooks.items():
        rows = symbol_tables(notebook)
        rows += [f"| {symbol} | {meaning} |" for symbol, meaning in (extra.get(chapter) or {}).items()]
        if rows:
            out += [f"### {titles[chapter]}\n", head, *rows, ""]
    return "\n".join(out) + "\n"


# ---------------------------------------------------------------- errors

_ERRORS = {"BookError", "MissingData", "ChapterFailed"}


def _template(node: ast.expr) -> str:
    """The text of a message, with ... for what is known only when it happens."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_template(value) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _template(left) + _template(right)
        case ast.IfExp(body=body):
            return _template(body)
    return "..."


def messages(package: Path) -> dict[str, list[str]]:
    """Every message of an error that a reader can cause, as a template, by module of ``package``."""
    found: dict[str, list[str]] = {}
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _ERRORS and node.args:
                text = " ".join(re.sub(r"(\.\.\.){2,}", "...", _template(node.args[0])).split())
                if re.search(r"[A-Za-z]{3}", text) and text not in found.setdefault(module, []):
                    found[module].append(text)
    return {module: texts for module, texts in found.items() if texts}


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", text)


def errors(package: Path) -> str:
    """MyST: a fold for each module with its messages."""
    out = []
    for module, texts in messages(package).items():
        lines = "\n".join(f"- {_plain(text)}" for text in texts)
        out.append(_dropdown(f"helpers.{module}: {len(texts)}", lines, "no-terms"))
    return "\n".join(out)


def changelog(root: Path) -> str:
    """MyST: the changelog without its title."""
    file = root / "CHANGELOG.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text[text.index("\n## ") + 1 :] if "\n## " in text else "Nothing yet.\n"


# ---------------------------------------------------------------- frames

_FRAME = re.compile(r"""(<iframe\b[^>]*?)\ssrcdoc=(['"])(.*?)\2""", flags=re.S)


def frames(notebook: NotebookNode) -> dict[str, bytes]:
    """Move what interactive views hold out of a chapter: staged path -> document.

    Such a view brings its own scripts, megabytes of them; the page then loads it when a reader gets there.
    """
    found: dict[str, bytes] = {}

    def move(match: re.Match[str]) -> str:
        document = html.unescape(match.group(3)).encode()
        name = f"frames/{hashlib.sha256(document).hexdigest()[:12]}.html"
        found[f"book/static/{name}"] = document
        return f"{match.group(1)} loading='lazy' src='../_static/{name}'"

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "srcdoc=" in data.get("text/html", ""):
                data["text/html"] = _FRAME.sub(move, data["text/html"])
    return found


# ---------------------------------------------------------------- all of it

def contents(root: Path, chapters: Sequence[str]) -> dict[str, Any]:
    """``_toc.yml`` with each chapter's practice page below it."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            name = str(node.get("file", "")).removeprefix("notebooks/")
            if node.get("file") == f"notebooks/{name}" and name in chapters:
                node["sections"] = [{"file": f"practice/{name}"}]
                return
            if node.get("file") == "book/datasets" and (root / "book" / "datasets.yml").is_file():
                pages = _yaml(root / "book" / "datasets.yml")
                node["sections"] = [{"file": f"datasets/{page}"} for page in pages]
                return
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(value)

    walk(toc)
    return toc


def files(toc: Mapping[str, Any]) -> list[str]:
    """Pages of a table of contents, in order, without ending."""
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.extend(str(node[key]) for key in ("root", "file") if key in node)
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(value)

    walk(toc)
    return found


def glossary(text: str) -> dict[str, dict[str, Any]]:
    """Terms of the glossary page -> ``text``, the plain definition, ``id`` and ``exact`` (capitals count).

    An abbreviation that opens a definition (``FC. A measure...``) is a term of its own.
    """
    found: dict[str, dict[str, Any]] = {}
    block = re.search(r"^:{3,}\{glossary\}\n(.*?)^:{3,}$", text, flags=re.S | re.M)
    entry = r"^(\S[^\n]*)\n((?:[ ]{2}[^\n]*\n?)+)"
    for term, body in re.findall(entry, block.group(1) if block else "", flags=re.M):
        plain = re.sub(r"\{\w+\}`([^`]*)`|[*`$]", r"\1", " ".join(body.split()))
        anchor = "term-" + re.sub(r"[^A-Za-z0-9]+", "-", term).strip("-")
        short = re.match(r"([A-Z]{2,5})\. ", plain)
        for word in [re.sub(r" \(.*\)", "", term), *([short.group(1)] if short else [])]:
            found[word] = {"text": plain, "id": anchor, "exact": word.isupper()}
    return found


def generated(
    root: Path, notebooks: Mapping[str, NotebookNode], prose: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Staged path -> content of everything that is made from these executed chapters.

    ``prose`` are the pages in ``book/``; those with a mark (``<!-- results -->``) come back filled in.
    Without ``book/chapters.yml`` nothing is made.
    """
    if not (root / "book" / "chapters.yml").is_file():
        return {}
    chapters = list(notebooks)
    titles = {chapter: title(notebook) for chapter, notebook in notebooks.items()}
    short = {chapter: _entry(about(root), chapter)["short"] for chapter in chapters}
    staged = {"_toc.yml": yaml.safe_dump(contents(root, chapters), sort_keys=False).encode()}
    for chapter in chapters:
        staged[f"practice/{chapter}.md"] = practice(root, chapter, titles[chapter]).encode()
        copy_ = nbformat.writes(handout(coursework.read(chapter))) + "\n"
        staged[f"practice/{chapter}_exercises.ipynb"] = copy_.encode()
        image = picture(notebooks[chapter], _entry(about(root), chapter)["picture"])
        staged[f"book/cards/{chapter}.png"] = image
    rows = evidence_rows(root, chapters, short)
    if rows:
        staged["book/evidence.svg"] = evidence_picture(rows)
    words = glossary(prose.get("book/glossary.md", b"").decode())
    script = f"window.bookGlossary = {json.dumps(words, sort_keys=True)};\n"
    staged["book/static/glossary.js"] = script.encode()
    filled = {
        "results": lambda: results(root, chapters, short),
        "audits": lambda: audits(notebooks),
        "status": lambda: status(chapters, short),
        "versions": lambda: versions(chapters),
        "errors": lambda: errors(Path(__file__).resolve().parent),
        "symbols": lambda: symbols(root, notebooks, short),
        "changelog": lambda: changelog(root),
        "records": lambda: recorded(root),
        "chapters": lambda: cards(root, notebooks, titles),
    }
    prose = dict(prose)
    if "book/datasets.md" in prose and (root / "book" / "datasets.yml").is_file():
        text = prose["book/datasets.md"].decode()
        for name, page in dataset_pages(root, text, short).items():
            staged[f"datasets/{name}.md"] = page.encode()
        staged["book/datasets.md"] = dataset_overview(root, text).encode()
        del prose["book/datasets.md"]
    for name, content in prose.items():
        text = content.decode()
        for key, make in filled.items():
            if mark(key) in text:
                text = text.replace(mark(key), make())
        if text != content.decode():
            staged[name] = text.encode()
    return staged
