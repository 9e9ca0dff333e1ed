"""Print the parameters of configs/ci/CHAPTER.yml as NUL-separated ``-p name=value`` options."""

import json
import sys
from pathlib import Path

import yaml


def options(path: Path) -> list[str]:
    """Options for the parameters in a YAML file; numbers and lists as JSON, strings as they are."""
    if not path.is_file():
        sys.exit(f"{path} is missing: each chapter needs one, to make its public run short")
    parameters = yaml.safe_load(path.read_text()) or {}
    if not isinstance(parameters, dict):
        sys.exit(f"{path} must hold lines 'name: value'")
    words = []
    for name, value in parameters.items():
        words += ["-p", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return words


if __name__ == "__main__":
    sys.stdout.write("".join(word + "\0" for word in options(Path(sys.argv[1]))))
