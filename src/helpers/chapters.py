"""The chapters as files, as parameters and as modules.

``parameters(name)`` reads a chapter's parameters cell. ``load(name)`` runs only the cells, or parts of
cells, that define things, so that tests and other chapters use a class where it is explained, without its
training.
"""

from __future__ import annotations
import __future__

import ast
import difflib
import functools
import hashlib
import io
import linecache
import math
import re
import sys
import tokenize
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from .errors import BookError
from .paths import repo_root

PARAMETERS, DEFINE, SKIP = "parameters", "define", "no-load"  # cell tags
_CHAPTER = re.compile(r"\d\d_[a-z0-9_]+")
_NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*(?:[eE][+-]?\d+)?|inf)"
_RANGE = re.compile(rf"\bin ([\[(])\s*({_NUMBER})\s*,\s*({_NUMBER})\s*([\])])\s*$")
_SCALARS = {"int": int, "float": float, "bool": bool, "str": str}
_ADDRESS = re.compile(r"git\+https://github\.com/[\w.-]+/[\w.-]+")
_ELSEWHERE = re.compile(r"^\s*(?:[\w, ]+=\s*)?[%!]|^\s*[\w.]+\?{1,2}\s*$|^\s*\?{1,2}[\w.]+\s*$")
_PYTHON_CELL_MAGICS = ("%%time", "%%capture", "%%timeit", "%%prun")


# --- files ----------------------------------------------------------------------------------------


def folder() -> Path:
    """The notebooks folder. Raises BookError outside the repository."""
    root = repo_root()
    if root is None:
        raise BookError(
            f"no book here: {Path.cwd()} is not inside the repository (no _config.yml and _toc.yml above it);"
            " change into it first"
        )
    return root / "notebooks"


def names() -> list[str]:
    """Names of the chapters that exist, in order: ``["01_signals", ...]``."""
    found = (file.stem for file in folder().glob("*.ipynb"))
    return sorted(name for name in found if _CHAPTER.fullmatch(name))


def suggest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean a or b?"``, or else what there is to choose from."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.5) or [
        k for k in known if word and word in k
    ]
    if close:
        return f"; did you mean {' or '.join(close[:2])}?"
    return f"; choose from {', '.join(known)}" if known else "; there are none yet"


def path(name: str) -> Path:
    """The notebook of a chapter. Raises BookError, with close names, when there is none."""
    file = folder() / f"{name}.ipynb"
    if not (_CHAPTER.fullmatch(name) and file.is_file()):
        raise BookError(f"unknown chapter {name!r}{suggest(name, names())}")
    return file


def read(name: str) -> nbformat.NotebookNode:
    """The notebook of a chapter, parsed. Raises BookError when the file is not a notebook."""
    file = path(name)
    try:
        return nbformat.read(file, as_version=4)
    except (nbformat.ValidationError, ValueError, AttributeError, KeyError, OSError) as error:
        raise BookError(f"notebooks/{file.name} cannot be read as a notebook: {error}") from error


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def without_address(source: str) -> str:
    """A cell's code with the book's first address in place of where the book lives now.

    The install cell names the repository; publishing it elsewhere changes no result.
    """
    return _ADDRESS.sub("git+https://github.com/OWNER/hands-on-brain-foundation-models", source)


def code_sha256(notebook: nbformat.NotebookNode) -> str:
    """Hash of a notebook's code: the sources of its code cells in order; prose and outputs do not count."""
    sources = [without_address(cell.source).strip() for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def notebook_sha256(name: str) -> str:
    """``code_sha256`` of a chapter as it is now."""
    return code_sha256(read(name))


# --- parameters -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``name: annotation = default  # comment``.

    ``kind`` is one of int, float, bool, str, or list of one of them; ``choices`` come from
    ``Literal[...]``; ``low`` and ``high`` from a comment that ends in ``in [a, b]``, with ``(`` or ``)``
    for an end that is left out.
    """

    name: str
    annotation: str
    default: Any
    comment: str
    kind: str
    is_list: bool = False
    optional: bool = False
    choices: tuple[Any, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    @property
    def range(self) -> str:
        """``"[0, 0.95]"``, or an empty string where any value will do."""
        if self.low == -math.inf and self.high == math.inf:
            return ""
        return f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"

    def check(self, value: Any) -> Any:
        """The value, as the declared type (an int becomes a float where a float is wanted).

        Raises BookError for another type, a value outside the choices or the range, NaN and infinity.
        """
        if value is None:
            if self.optional:
                return None
            raise BookError(f"parameter {self.name}: None is not allowed, it is {self.annotation}")
        if self.is_list:
            if not isinstance(value, list | tuple):
                raise self._wrong(value, f"for one value write [{value}]")
            return [self._check_one(item) for item in value]
        return self._check_one(value)

    def _check_one(self, value: Any) -> Any:
        if self.choices:
            for choice in self.choices:
                if type(choice) is type(value) and choice == value:
                    return value
            allowed = ", ".join(str(choice) for choice in self.choices)
            close = difflib.get_close_matches(str(value), [str(c) for c in self.choices], n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise BookError(f"parameter {self.name}: {value!r} is not one of {allowed}{hint}")
        if self.kind == "float" and type(value) is int:
            value = float(value)
        if type(value) is not _SCALARS[self.kind]:
            raise self._wrong(value, self._hint(value))
        if self.kind == "float" and not math.isfinite(value):
            raise BookError(f"parameter {self.name}: {value} is not a finite number")
        if self.kind in ("int", "float") and not self._inside(value):
            raise BookError(f"parameter {self.name}: {value} is outside {self.range}")
        return value

    def _inside(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def _wrong(self, value: Any, hint: str) -> BookError:
        hint = f"; {hint}" if hint else ""
        return BookError(
            f"parameter {self.name}: {value!r} is {type(value).__name__}, not {self.annotation}{hint}"
        )

    def _hint(self, value: Any) -> str:
        """What to write instead, for the mistakes that YAML invites."""
        if isinstance(value, str) and self.kind in ("int", "float"):
            try:
                number = float(value)
            except ValueError:
                return ""
            if self.kind == "int":
                return f"write {int(number)}" if number.is_integer() else ""
            mantissa, mark, exponent = repr(number).partition("e")
            plain = f"{mantissa if '.' in mantissa else mantissa + '.0'}{mark}{exponent}"
            return f"YAML reads {value} as text: write {plain}"
        if self.kind == "int" and isinstance(value, float) and value.is_integer():
            return f"write {int(value)}"
        if self.kind == "bool" and value in (0, 1):
            return "write true or false"
        if self.kind == "str" and not isinstance(value, list | dict):
            return f'put it in quotes: "{value}"'
        return ""


def parameters(name: str) -> dict[str, Parameter]:
    """The parameters of a chapter, in order. Raises BookError when the cell breaks the rules (``parse``)."""
    return parameters_of(read(name), f"notebooks/{name}.ipynb")


def parameters_of(notebook: nbformat.NotebookNode, where: str) -> dict[str, Parameter]:
    """``parameters`` for a notebook that is already in memory; ``where`` is its name in errors."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and PARAMETERS in _tags(cell)]
    if len(cells) != 1:
        raise BookError(f"{where}: {len(cells)} cells are tagged {PARAMETERS!r}, there must be exactly one")
    return parse(cells[0].source, where)


def parse(source: str, where: str = "parameters cell") -> dict[str, Parameter]:
    """Parse the source of a parameters cell: annotated literals, each with a comment on its (last) line."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise BookError(
            f"{where}: the parameters cell is not Python: line {error.lineno}: {error.msg}"
        ) from error
    comments = {
        token.start[0]: token.string.lstrip("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, Parameter] = {}
    for node in body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
            raise BookError(
                f"{where}: parameters cell, line {node.lineno}: {ast.unparse(node)!r} is not"
                " 'name: type = literal  # comment'; derived values belong in the next cell"
            )
        comment = comments.get(node.end_lineno, "")
        if not comment and not isinstance(node.value, ast.List):  # a formatter put a long line in brackets
            comment = " ".join(filter(None, (comments.get(n) for n in range(node.lineno, node.end_lineno))))
        parameter = _parse_line(node, comment, where)
        if parameter.name in found:
            raise BookError(f"{where}: parameter {parameter.name} is defined twice")
        found[parameter.name] = parameter
    return found


def _parse_line(node: ast.AnnAssign, comment: str, where: str) -> Parameter:
    name = node.target.id
    here = f"{where}: parameter {name}"
    try:
        default = ast.literal_eval(node.value)
    except ValueError:
        raise BookError(
            f"{here}: {ast.unparse(node.value)!r} is not a literal; derived values belong in the next cell"
        ) from None
    if not comment:
        raise BookError(f"{here}: say what it is in a comment at the end of its line")
    options: dict[str, Any] = {}
    if match := _RANGE.search(comment):
        left, low, high, right = match.groups()
        options = {"low": float(low), "high": float(high), "open_low": left == "(", "open_high": right == ")"}
        if not options["low"] < options["high"]:
            raise BookError(f"{here}: its range '{match.group()}' is empty")
    options |= _parse_type(node.annotation, here)
    if match and options["kind"] not in ("int", "float"):
        raise BookError(f"{here}: a range is for numbers, not for {options['kind']}")
    parameter = Parameter(name, ast.unparse(node.annotation), default, comment, **options)
    try:
        parameter.check(default)
    except BookError as error:
        raise BookError(f"{where}: its own default breaks the rules: {error}") from error
    if parameter.kind == "float" and default is not None and not parameter.is_list and not parameter.choices:
        if type(default) is not float:
            raise BookError(f"{here}: write its default as a float, {float(default)}")
    return parameter


def _parse_type(annotation: ast.expr, here: str) -> dict[str, Any]:
    """Options of ``Parameter`` for ``int``, ``list[int]``, ``Literal[...]`` and each of them ``| None``."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return _parse_type(left, here) | {"optional": True}
        case ast.Name(id=kind) if kind in _SCALARS:
            return {"kind": kind}
        case ast.Subscript(value=ast.Name(id="list"), slice=ast.Name(id=kind)) if kind in _SCALARS:
            return {"kind": kind, "is_list": True}
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            values = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            choices = tuple(ast.literal_eval(value) for value in values)
            kinds = {type(choice).__name__ for choice in choices}
            if len(kinds) == 1 and kinds <= set(_SCALARS):
                return {"kind": kinds.pop(), "choices": choices}
    raise BookError(
        f"{here}: type {ast.unparse(annotation)} is not known; use int, float, bool, str, a list of"
        " one of them, or Literal[...], each with '| None' if it may be empty"
    )


# --- definitions ----------------------------------------------------------------------------------


def load(name: str) -> types.ModuleType:
    """The definitions of a chapter, as module ``helpers_chapter_NAME``.

    Run are: the parameters cell and cells tagged ``define`` (whole), and of the other cells imports,
    functions, classes, ``if TYPE_CHECKING`` and capital-letter constants given as literals. Cells tagged
    ``no-load``, magics and ``!`` lines are left out. The module is kept until the notebook's code changes.

    Raises BookError, naming the cell, when a definition needs something that is not defined this way.
    """
    notebook = read(name)
    digest = code_sha256(notebook)
    module_name = f"helpers_chapter_{name}"
    known = sys.modules.get(module_name)
    if known is not None and known.__notebook_sha256__ == digest and known.__notebook__ == str(path(name)):
        return known

    module = types.ModuleType(module_name, f"Definitions of notebooks/{name}.ipynb.")
    module.__file__ = f"<{name}.ipynb {digest[:8]}>"
    module.__notebook__, module.__notebook_sha256__ = str(path(name)), digest
    lines: list[str] = []
    pieces: list[tuple[int, ast.Module]] = []
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        source, tree = _parse_cell(cell.source, f"notebooks/{name}.ipynb, cell {number}")
        lines.append(f"# %% cell {number}")
        ast.increment_lineno(tree, len(lines))
        lines += source.splitlines() + [""]
        pieces.append((number, _definitions(tree, _tags(cell))))
    # With no modification time the entry stays: tracebacks and inspect.getsource see the notebook's code.
    linecache.cache[module.__file__] = (
        sum(map(len, lines)),
        None,
        [f"{x}\n" for x in lines],
        module.__file__,
    )

    sys.modules[module_name] = module  # dataclasses and pickle look the module up while classes are made
    flags = 0
    for number, tree in pieces:
        flags |= _future_flags(tree)
        try:
            exec(compile(tree, module.__file__, "exec", flags=flags, dont_inherit=True), module.__dict__)
        except Exception as error:
            sys.modules.pop(module_name)
            if known is not None:
                sys.modules[module_name] = known
            hint = ""
            if isinstance(error, NameError) and error.name:
                hint = f"; tag the cell that makes {error.name} 'define', or this one 'no-load'"
            raise BookError(
                f"notebooks/{name}.ipynb, cell {number} cannot be loaded:"
                f" {type(error).__name__}: {error}{hint}"
            ) from error
    return module


def loaded() -> dict[str, str]:
    """Chapters that this process has loaded, with the hash of the code they were loaded from."""
    prefix = "helpers_chapter_"
    modules = {k: m for k, m in list(sys.modules.items()) if k.startswith(prefix)}
    return {k.removeprefix(prefix): m.__notebook_sha256__ for k, m in modules.items()}


def _parse_cell(source: str, where: str) -> tuple[str, ast.Module]:
    """The cell without IPython's extras (line numbers kept), and its syntax tree."""
    first = source.lstrip().split(maxsplit=1)[:1]
    if first and first[0].startswith("%%"):
        if first[0] not in _PYTHON_CELL_MAGICS:
            return "\n".join(f"# {line}" for line in source.splitlines()), ast.Module([], [])
        source = source.replace("%%", "# %%", 1)
    for text in (source, _without_magics(source)):
        try:
            return text, ast.parse(text)
        except SyntaxError as error:
            problem = error
    raise BookError(f"{where} is not Python: line {problem.lineno}: {problem.msg}") from problem


def _without_magics(source: str) -> str:
    lines = []
    for line in source.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(f"{indent}pass  # {line.strip()}" if _ELSEWHERE.match(line) else line)
    return "\n".join(lines)


def _definitions(tree: ast.Module, tags: list[str]) -> ast.Module:
    """The part of a cell that defines things."""
    if SKIP in tags:
        return ast.Module([], [])
    if DEFINE in tags or PARAMETERS in tags:
        return tree
    return ast.Module([node for node in tree.body if _is_definition(node)], [])


def _is_definition(node: ast.stmt) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            return True
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value)
            | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
        ):
            return name.isupper() and _is_literal(value)
    return False


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError):
        return False
    return True


@functools.cache
def _future(name: str) -> int:
    return getattr(__future__, name).compiler_flag


def _future_flags(tree: ast.Module) -> int:
    """Compiler flags of ``from __future__ import ...``, which IPython too carries on to later cells."""
    flags = 0
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for alias in node.names:
                flags |= _future(alias.name)
    return flags
