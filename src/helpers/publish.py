"""Give the book an address, and pack it.

    python -m helpers.publish address OWNER/NAME   # make publish REPO=OWNER/NAME
    python -m helpers.publish release              # make release

``_config.yml`` holds the address of the public repository; badges, launch links, install cells and pages
repeat it. ``address`` changes it everywhere at once. ``release`` packs the built pages into one zip, the same
bytes for the same pages, with its sha256 beside it.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
import zipfile
from pathlib import Path

import yaml

from . import io, paths
from .errors import BookError, MissingData

HOST = "https://github.com/"
PLACES = ("_config.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "book/*.md",
          "notebooks/*.ipynb", "notebooks/exercises/*.ipynb")
_SLUG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?/[A-Za-z0-9][\w.-]*")
_DATE = (1980, 1, 1, 0, 0, 0)


def _root() -> Path:
    root = paths.repo_root()
    if root is None:
        raise BookError("no book here: change into the repository first")
    return root


def address(root: Path) -> str:
    """``OWNER/NAME`` of the public repository, from ``_config.yml``."""
    url = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    return str(url).removeprefix(HOST).strip("/")


def files(root: Path) -> list[Path]:
    """Every file that may name the address."""
    return sorted(path for place in PLACES for path in root.glob(place))


def move(root: Path, new: str) -> list[Path]:
    """Put ``new`` (OWNER/NAME) in place of the present address everywhere; the files that changed.

    Raises BookError when it is not of this form; then nothing is written.
    """
    new = new.removeprefix(HOST).removesuffix(".git").strip("/")
    if not _SLUG.fullmatch(new):
        raise BookError(f"{new!r} is not of the form OWNER/NAME, as in make publish REPO=jane/brain-book")
    old, changed = address(root), []
    if new == old:
        return []
    exact = re.compile(rf"(?<![\w.-]){re.escape(old)}(?![\w-])")
    for path in files(root):
        text = path.read_text(encoding="utf-8")
        if (moved := exact.sub(new, text)) != text:
            io.atomic_write(path, moved)
            changed.append(path)
    return changed


def release(root: Path) -> tuple[Path, str]:
    """Zip of ``_build/html`` and its sha256, which is also written beside it. MissingData without a book."""
    html = root / "_build" / "html"
    if not (html / "index.html").is_file():
        raise MissingData("no built book to pack: run make book first")
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    folder = root / "_build" / "release"
    io.make_folder(folder)
    target = folder / f"hands-on-brain-foundation-models-{version}-html.zip"
    top = target.stem
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as pack:
        for path in sorted(html.rglob("*")):
            name = path.relative_to(html)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                entry = zipfile.ZipInfo(f"{top}/{name.as_posix()}", _DATE)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                pack.writestr(entry, path.read_bytes())
    digest = io.sha256(target)
    io.atomic_write(target.with_name(target.name + ".sha256"), f"{digest}  {target.name}\n")
    return target, digest


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 when refused."""
    parser = argparse.ArgumentParser(prog="python -m helpers.publish", description="Address and release.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("address", help="set the public address").add_argument("repository")
    commands.add_parser("release", help="pack the built pages")
    given = parser.parse_args(arguments)
    try:
        root = _root()
        if given.command == "address":
            changed = move(root, given.repository)
            print(f"{address(root)}: {len(changed)} files changed" + (": commit them" if changed else ""))
        else:
            target, digest = release(root)
            print(f"{target} ({target.stat().st_size / 2**20:.1f} MB)\nsha256 {digest}")
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
