"""The rules of a chapter (CONTRIBUTING.md), one function each: notebook in, list of complaints out."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from statistics import median

import nbformat
from nbformat import NotebookNode

CODE_CELLS = (30, 60)
WORDS = (2000, 4000)
LONGEST = 40
MEDIAN = 8
IN_A_ROW = 2

Rule = Callable[[NotebookNode], list[str]]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    """Register a rule under its name."""
    RULES[function.__name__] = function
    return function


# ---------------------------------------------------------------- helpers

def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def code(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Code cells with their place in the notebook."""
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"]


def where(i: int, cell: NotebookNode) -> str:
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return f"cell {i} ('{first.strip()[:50]}')"


def lines(cell: NotebookNode) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def plain(text: str) -> str:
    """Prose without code blocks, formulas, links' addresses, roles and tables."""
    text = re.sub(r"```.*?```", " ", text, flags=re.S)
    text = re.sub(r"\$\$.*?\$\$", " ", text, flags=re.S)
    text = re.sub(r"^\s*\|.*$", " ", text, flags=re.M)
    text = re.sub(r"\{(?:cite|numref|eq)\}`[^`]*`", " ", text)
    text = re.sub(r"`[^`]*`|\$[^$\n]*\$", " x ", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def python(cell: NotebookNode) -> ast.Module | None:
    """Syntax tree of a code cell without IPython's magics; None when it cannot be parsed."""
    text = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.M)
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


# ---------------------------------------------------------------- form

@rule
def valid(notebook: NotebookNode) -> list[str]:
    """Valid notebook format 4.5, with a distinct id in each cell."""
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids:
        return ["a cell has no id (nbformat 4.5 gives each one)"]
    if len(set(ids)) < len(ids):
        return ["two cells have the same id"]
    try:
        nbformat.validate(deepcopy(notebook))
    except nbformat.ValidationError as error:
        return [f"not a valid notebook: {str(error).splitlines()[0]}"]
    return []


@rule
def python_kernel(notebook: NotebookNode) -> list[str]:
    name = notebook.metadata.get("kernelspec", {}).get("name")
    return [] if name == "python3" else [f"the kernel is '{name}', not python3"]


@rule
def one_parameters_cell(notebook: NotebookNode) -> list[str]:
    """One cell tagged ``parameters``: annotated literals only, with a trailing comment on each line."""
    found = [(i, cell) for i, cell in code(notebook) if "parameters" in tags(cell)]
    if len(found) != 1:
        return [f"{len(found)} cells are tagged parameters; there must be one"]
    i, cell = found[0]
    tree = python(cell)
    if tree is None or not all(isinstance(node, ast.AnnAssign) and node.value for node in tree.body):
        return [f"{where(i, cell)}: only 'name: type = literal  # what it is' belongs here"]
    bare = [line for line in cell.source.splitlines() if "=" in line.split("#")[0] and "#" not in line]
    return [f"{where(i, cell)}: no comment after '{line.strip()}'" for line in bare]


@rule
def outputs_only_where_checked(notebook: NotebookNode) -> list[str]:
    """Committed outputs belong to cells tagged nbval-check-output; those must have one, and no picture."""
    found = []
    for i, cell in code(notebook):
        checked = "nbval-check-output" in tags(cell)
        if cell.outputs and not checked:
            found.append(f"{where(i, cell)} has an output but is not tagged nbval-check-output")
        if checked and not cell.outputs:
            found.append(f"{where(i, cell)} is tagged nbval-check-output but has no output")
        if checked and cell.outputs and cell.execution_count is None:
            found.append(f"{where(i, cell)} has an output but no execution_count: nbval refuses it")
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            found.append(f"{where(i, cell)}: a picture is not a result to check")
        if cell.execution_count is not None and not checked:
            found.append(f"{where(i, cell)} has an execution count")
    return found


@rule
def install_cell_is_hidden(notebook: NotebookNode) -> list[str]:
    """The first code cell installs in Colab, does nothing elsewhere, and is folded."""
    cells = code(notebook)
    if not cells or "colab" not in cells[0][1].source.lower() or "pip" not in cells[0][1].source:
        return ["the first code cell must install the helpers in Colab, and only there"]
    return [] if "hide-cell" in tags(cells[0][1]) else ["the install cell must be tagged hide-cell"]


# ---------------------------------------------------------------- rhythm

@rule
def number_of_code_cells(notebook: NotebookNode) -> list[str]:
    n, (low, high) = len(code(notebook)), CODE_CELLS
    return [] if low <= n <= high else [f"{n} code cells; a chapter has {low} to {high}"]


@rule
def short_cells(notebook: NotebookNode) -> list[str]:
    sizes = [(lines(cell), where(i, cell)) for i, cell in code(notebook)]
    found = [f"{place} has {n} lines; at most {LONGEST}" for n, place in sizes if n > LONGEST]
    middle = median(n for n, _ in sizes) if sizes else 0
    if middle > MEDIAN:
        found.append(f"the median code cell has {middle:g} lines; at most {MEDIAN}")
    return found


@rule
def prose_between_code(notebook: NotebookNode) -> list[str]:
    found, run = [], 0
    for i, cell in enumerate(notebook.cells):
        run = run + 1 if cell.cell_type == "code" else 0
        if run == IN_A_ROW + 1:
            found.append(f"{where(i, cell)} is the third code cell in a row without prose")
    return found


@rule
def amount_of_prose(notebook: NotebookNode) -> list[str]:
    n = sum(len(re.findall(r"[A-Za-zÀ-ÿ][\w'’-]*", plain(cell.source))) for _, cell in prose(notebook))
    low, high = WORDS
    return [] if low <= n <= high else [f"{n} words of prose; a chapter has {low} to {high}"]


@rule
def one_title(notebook: NotebookNode) -> list[str]:
    text = "\n".join(re.sub(r"```.*?```", "", cell.source, flags=re.S) for _, cell in prose(notebook))
    titles = re.findall(r"^# .+$", text, flags=re.M)
    if len(titles) != 1 or not notebook.cells[0].source.startswith("# "):
        return [f"{len(titles)} titles ('# ...'); there must be one, in the first cell"]
    levels = [len(mark) for mark in re.findall(r"^(#+) ", text, flags=re.M)]
    jumps = [b for a, b in pairwise(levels) if b > a + 1]
    return ["a heading skips a level"] if jumps else []


# ---------------------------------------------------------------- text

@rule
def only_common_markdown(notebook: NotebookNode) -> list[str]:
    """CommonMark, dollar math and the roles cite, numref and eq: it must read well in Colab too."""
    found = []
    for i, cell in prose(notebook):
        if re.search(r"^\s*(```+|:::+|~~~+)\s*\{", cell.source, flags=re.M):
            found.append(f"{where(i, cell)} holds a MyST directive")
        for role in re.findall(r"\{([\w:-]+)\}`", cell.source):
            if role not in ("cite", "numref", "eq"):
                found.append(f"{where(i, cell)} uses the role {{{role}}}")
        if re.search(r"^\(\w[\w-]*\)=\s*$", cell.source, flags=re.M):
            found.append(f"{where(i, cell)} holds a MyST label")
        bare = re.sub(r"\$\$.*?\$\$|`[^`]*`", "", cell.source, flags=re.S)
        if re.search(r"\\\(|\\\[|\\begin\{(equation|align)", bare):
            found.append(f"{where(i, cell)} writes math without dollars")
    return found


@rule
def equations_are_referred_to_by_label(notebook: NotebookNode) -> list[str]:
    """Each {eq} points to a label of this notebook."""
    text = "\n".join(cell.source for _, cell in prose(notebook))
    labels = set(re.findall(r"\$\$\s*\(([\w-]+)\)", text))
    used = re.findall(r"\{eq\}`([^`]+)`", text)
    return [f"{{eq}}`{name}` has no such label" for name in used if name not in labels]


@rule
def pictures_in_prose(notebook: NotebookNode) -> list[str]:
    """No picture from the network or a data URI, and an alt text for each."""
    found = []
    for i, cell in prose(notebook):
        for alt, address in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", cell.source):
            if re.match(r"(https?:)?//|data:", address):
                found.append(f"{where(i, cell)}: the picture {address[:60]} is not in the repository")
            if not alt.strip():
                found.append(f"{where(i, cell)}: the picture {address[:60]} has no alt text")
        if re.search(r"<img\b", cell.source):
            found.append(f"{where(i, cell)}: write pictures as ![alt](file), not as <img>")
    return found


@rule
def no_typed_results(notebook: NotebookNode) -> list[str]:
    """A sentence that gives a metric a number must say where it is from (paper, report, cite)."""
    metric = re.compile(r"\b(AUC|AUROC|accuracy|F1|MSE|MAE|p\s*[=<]|interval)\b")
    number = re.compile(r"(?<![\w.])0?\.\d{2,}|\b\d{2,3}\.\d+\s*%?|\b\d\d\s*%")
    said = re.compile(r"paper|report|author|publish|\{cite\}|chance|claim|quoted|example|suppose", re.I)
    found = []
    for i, cell in prose(notebook):
        if said.search(cell.source.split("\n", 1)[0]) and cell.source.startswith("#"):
            continue  # a section on what others said
        without_tables = re.sub(r"^\s*\|.*$", "", cell.source, flags=re.M)
        for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", without_tables):
            bare = re.sub(r"\b9\d\s*%", "", plain(sentence))  # the level of an interval is no result
            if metric.search(sentence) and number.search(bare) and not said.search(sentence):
                start = " ".join(sentence.split())[:90]
                found.append(f"{where(i, cell)} seems to hold a typed result: '{start}'")
    return found


# ---------------------------------------------------------------- code

@rule
def figures_are_described(notebook: NotebookNode) -> list[str]:
    """A cell that draws carries alt text, caption and a name 'fig-...' in its mystnb metadata."""
    helpers = "matrix|panel|glass|connectome|curves|intervals"
    draws = re.compile(rf"plt\.(subplots|figure|show)\(|plot\.({helpers})\(")
    found, names = [], []
    for i, cell in code(notebook):
        about = cell.metadata.get("mystnb", {})
        alt, figure = about.get("image", {}).get("alt", ""), about.get("figure", {})
        defines = re.match(r"\s*(def|class|@)", cell.source) or "define" in tags(cell)
        if not about and draws.search(cell.source) and not defines:
            found.append(f"{where(i, cell)} draws but has no alt text, caption and name (mystnb metadata)")
        if not about or not (alt or figure):
            continue
        name = str(figure.get("name", ""))
        if len(str(alt)) < 20:
            found.append(f"{where(i, cell)}: the alt text says too little")
        if len(str(figure.get("caption", ""))) < 20:
            found.append(f"{where(i, cell)}: the caption says too little")
        if not re.fullmatch(r"fig-[a-z0-9-]+", name):
            found.append(f"{where(i, cell)}: the figure's name must be like fig-some-words, not '{name}'")
        names.append(name)
    return found + [f"two figures are named {name}" for name in sorted(set(names)) if names.count(name) > 1]


@rule
def no_absolute_paths(notebook: NotebookNode) -> list[str]:
    path = re.compile(r"(?<![\w.:/])(/(home|Users|root|tmp|work|data|mnt|content|scratch)/|~/|[A-Z]:\\\\?\w)")
    found = []
    for i, cell in enumerate(notebook.cells):
        outputs = str(cell.get("outputs", "")) if cell.cell_type == "code" else ""
        if hit := path.search(cell.source + outputs):
            found.append(f"{where(i, cell)} holds the absolute path '{hit.group(0)}...'")
    return found


@rule
def no_blanket_filters(notebook: NotebookNode) -> list[str]:
    """Silencing every warning hides the one that matters; a filter must name what it silences."""
    found = []
    for i, cell in code(notebook):
        for node in ast.walk(python(cell) or ast.Module([], [])):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name.endswith(("filterwarnings", "simplefilter")) and len(node.args) + len(node.keywords) < 2:
                found.append(f"{where(i, cell)} silences all warnings")
    return found


@rule
def no_star_imports(notebook: NotebookNode) -> list[str]:
    return [
        f"{where(i, cell)} imports *"
        for i, cell in code(notebook)
        for node in ast.walk(python(cell) or ast.Module([], []))
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    ]


@rule
def code_parses(notebook: NotebookNode) -> list[str]:
    return [f"{where(i, cell)} is not valid Python" for i, cell in code(notebook) if python(cell) is None]


@rule
def no_pickles(notebook: NotebookNode) -> list[str]:
    """Weights come from safetensors, or torch.load(weights_only=True)."""
    found = []
    for i, cell in code(notebook):
        for node in ast.walk(python(cell) or ast.Module([], [])):
            if not isinstance(node, ast.Call):
                continue
            true = {key.arg for key in node.keywords if getattr(key.value, "value", False) is True}
            name = ast.unparse(node.func)
            if (
                name in ("pickle.load", "pickle.loads", "joblib.load")
                or (name == "torch.load" and "weights_only" not in true)
                or (name == "np.load" and "allow_pickle" in true)
            ):
                found.append(f"{where(i, cell)} loads a pickle")
    return found


@rule
def ends_with_provenance(notebook: NotebookNode) -> list[str]:
    """A run is started with the parameters, and a cell near the end finishes it and shows the provenance."""
    sources = [cell.source for _, cell in code(notebook)]
    found = []
    if not any("records.start(" in source for source in sources):
        found.append("no cell calls records.start(...)")
    if not any(".finish()" in source for source in sources[-3:]):
        found.append("none of the last three code cells finishes the run and shows its provenance")
    return found


def complaints(notebook: NotebookNode) -> list[str]:
    """All complaints, each with the name of its rule."""
    return [f"{name}: {said}" for name, check in RULES.items() for said in check(notebook)]
