"""A shortened public run of one chapter, with the parameters of configs/ci/CHAPTER.yml.

    python .ci/public_run.py CHAPTER
"""

import json
import os
import sys
from pathlib import Path

import yaml


def options(path: Path) -> list[str]:
    """The parameters in a YAML file as -p name=value; numbers and lists as JSON, strings as they are."""
    if not path.is_file():
        sys.exit(f"{path} is missing: each chapter needs one, to make its public run short")
    parameters = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(parameters, dict):
        sys.exit(f"{path} must hold lines 'name: value'")
    words = []
    for name, value in parameters.items():
        words += ["-p", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return words


def main(chapter: str) -> None:
    """Replace this process by the run."""
    root = Path(__file__).resolve().parents[1]
    words = options(root / "configs" / "ci" / f"{chapter}.yml")
    os.execv(sys.executable, [sys.executable, "-m", "helpers.run", chapter, "--profile", "public", *words])


if __name__ == "__main__":
    main(sys.argv[1])
