"""Run records: what was run, on which data and machine, with which code, and what came out.

A chapter opens a record with ``start``, adds to it with ``log`` and ``data``, and ends with ``finish``.
Pages read records (``glance``, ``compare``, ``metric``, ``note``); no number on a page is typed. ``keep``
copies the record of a good run to ``runs/CHAPTER/PROFILE.json``, which is committed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib.metadata
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import chapters, io
from .errors import BookError, MissingData
from .paths import records_root, repo_root, runs_root

if TYPE_CHECKING:
    import pandas as pd

    from .evaluate import Estimate

SCHEMA_VERSION = 1
PROFILES = ("embedded", "public", "full")
RECORD, NOTEBOOK = "record.json", "notebook.ipynb"
PENDING = "record.pending.json"  # written by a run that helpers.run still has to find good
PACKAGES = (
    "torch", "numpy", "scipy", "pandas", "scikit-learn", "nilearn", "mne", "accelerate", "transformers",
    "peft", "monai", "matplotlib", "safetensors", "einops",
)  # fmt: skip
# A change in one of these cannot change a result.
PLUMBING = frozenset(
    ["helpers"]
    + [f"helpers.{m}" for m in ("run", "build", "records", "chapters", "paths", "io", "errors", "plot")]
)
NOT_RUN = {"embedded": "not run", "public": "not run", "full": "not run at full scale"}

_METRIC = re.compile(r"[a-z][a-z0-9_]*")
_LOCAL_PATH = re.compile(r"(?:^|[\s\"'(=,])(?:~?/[\w.-]+/|file:|[A-Za-z]:\\)")
_TEXT = {"type": "string", "minLength": 1}
_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Run record",
    "type": "object",
    "additionalProperties": False,
    "required": [
        "schema", "chapter", "profile", "parameters", "metrics", "data", "seed", "git_revision", "git_dirty",
        "versions", "hardware", "wall_seconds", "peak_memory_mb", "notebook_sha256", "helpers_sha256",
        "created_utc",
    ],
    "properties": {
        "schema": {"const": SCHEMA_VERSION},
        "chapter": {"type": "string", "pattern": r"^\d\d_[a-z0-9_]+$"},
        "profile": {"enum": list(PROFILES)},
        "parameters": {"type": "object"},
        "metrics": {"type": "object", "propertyNames": {"pattern": f"^{_METRIC.pattern}$"},
                    "additionalProperties": {"type": "number"}},
        "data": {"type": "array", "items": {
            "type": "object", "required": ["name"],
            "properties": {"name": _TEXT, "hash": _TEXT, "source": _TEXT}}},
        "seed": {"type": "integer"},
        "git_revision": {"type": ["string", "null"], "pattern": "^[0-9a-f]{40}$"},
        "git_dirty": {"type": ["boolean", "null"]},
        "versions": {"type": "object", "required": ["python"], "additionalProperties": _TEXT},
        "hardware": {"type": "object", "required": ["cpu", "cores", "memory_gb", "gpu"], "properties": {
            "cpu": _TEXT, "cores": {"type": "integer", "minimum": 1}, "memory_gb": {"type": "number"},
            "gpu": {"type": ["string", "null"]}, "gpus": {"type": "integer", "minimum": 0}, "system": _TEXT}},
        "wall_seconds": {"type": "number", "minimum": 0},
        "peak_memory_mb": {"type": "number", "minimum": 0},
        "peak_gpu_memory_mb": {"type": ["number", "null"]},
        "resumed": {"type": "boolean"},
        "notebook_sha256": {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"},
        "helpers_sha256": {"type": "object",
                           "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
        "created_utc": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
    },
}  # fmt: skip


# --- the record -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One finished run. ``metrics`` are flat: an interval is ``name``, ``name_lo``, ``name_hi``."""

    chapter: str
    profile: str
    parameters: dict[str, Any]
    metrics: dict[str, float]
    data: list[dict[str, Any]]
    seed: int
    git_revision: str | None
    git_dirty: bool | None
    versions: dict[str, str]
    hardware: dict[str, Any]
    wall_seconds: float
    peak_memory_mb: float
    notebook_sha256: str | None
    helpers_sha256: dict[str, str]
    created_utc: str
    peak_gpu_memory_mb: float | None = None
    resumed: bool = False

    def __repr__(self) -> str:
        return f"Record({self.chapter}, {self.profile}, {self.created_utc}, {len(self.metrics)} metrics)"

    def as_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA_VERSION, **asdict(self)}

    @property
    def machine(self) -> str:
        """``"2 cores (Intel Xeon), 8 GB"``, with the GPU first where there was one."""
        hardware = self.hardware
        gpu = f"{hardware.get('gpus', 1)} x {hardware['gpu']}, " if hardware["gpu"] else ""
        cores = f"{hardware['cores']} core{'s' if hardware['cores'] > 1 else ''}"
        return f"{gpu}{cores} ({hardware['cpu']}), {hardware['memory_gb']:.0f} GB"

    def stale(self, *, strict: bool = False) -> list[str]:
        """What has changed since: ``"notebook"``, ``"helpers.train"``, ``"notebooks/03_brainmass"``...

        Plumbing that cannot change a result (``PLUMBING``) counts only when ``strict``.
        """
        now = _notebook_now(self.chapter)
        changed = ["notebook"] if now is not None and now != self.notebook_sha256 else []
        for module, digest in sorted(self.helpers_sha256.items()):
            if (strict or module not in PLUMBING) and _source_sha256(module) != digest:
                changed.append(module)
        return changed

    def metric(self, name: str) -> Estimate | float | None:
        """An ``Estimate`` where there are ``name_lo`` and ``name_hi``, else the number, else None."""
        value, lo, hi = (self.metrics.get(name + end) for end in ("", "_lo", "_hi"))
        if value is None or lo is None or hi is None:
            return value
        from .evaluate import Estimate

        return Estimate(value, lo, hi)


def validate(content: Any, where: str) -> Record:
    """A record from parsed JSON. Raises BookError naming a field that is missing, wrong, or a local path."""
    import jsonschema

    problem = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_SCHEMA).iter_errors(content))
    if problem is not None:
        at = ".".join(str(part) for part in problem.absolute_path)
        raise BookError(f"{where} is not a valid record: {at + ': ' if at else ''}{problem.message[:200]}")
    for name, text in _texts(content):
        if _LOCAL_PATH.search(text):
            raise BookError(
                f"{where} is not a valid record: {name} tells a path of the machine it ran on: {text}"
            )
    return Record(**{k: v for k, v in content.items() if k != "schema"})


def read(path: Path | str) -> Record:
    """A record from a file. Raises MissingData without one, BookError if it is half-written or not valid."""
    return validate(io.read_json(path), _short(path))


def load(chapter: str, profile: str) -> Record | None:
    """The committed record of a chapter, or None when that profile has none."""
    _check_profile(profile)
    try:
        return read(records_root() / chapter / f"{profile}.json")
    except MissingData:
        return None


# --- a run ----------------------------------------------------------------------------------------


def parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The annotated plain values of a notebook's globals, as they are now: pass ``globals()``."""
    annotated = namespace.get("__annotations__") or {}
    if not annotated and callable(
        annotate := namespace.get("__annotate__")
    ):  # Python 3.14 makes them on demand
        annotated = annotate(1)
    return {name: namespace[name] for name in annotated if name in namespace and _is_plain(namespace[name])}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) and not isinstance(item, list) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


@dataclass
class Run:
    """The run of a chapter that is going on. Made by ``start``.

    ``dir`` is the run's folder; ``resume`` says that an interrupted run is to be continued.
    """

    chapter: str
    profile: str
    seed: int
    parameters: dict[str, Any]
    dir: Path
    resume: bool
    under_runner: bool
    metrics: dict[str, float] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    _began: float = 0.0
    _notebook: str | None = None
    _helpers: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        state = ", resumed" if self.resume else ""
        return f"Run({self.chapter}, {self.profile}, seed {self.seed}{state})"

    def checkpoint(self, name: str) -> Path:
        """Folder for the checkpoints of one training: ``fit(checkpoint=run.checkpoint("pretrain"))``."""
        if not re.fullmatch(r"[\w.-]+", name):
            raise BookError(f"checkpoint name {name!r}: use letters, digits, '_', '-' and '.'")
        return self.dir / "checkpoints" / name

    def data(self, source: Any) -> Run:
        """Add a data set: a ``Cohort``, or anything with a ``provenance`` (or a ``Provenance`` itself)."""
        entry = _describe_data(source)
        if entry not in self.sources:
            self.sources.append(entry)
        return self

    def log(self, **values: Any) -> Run:
        """Add metrics by name. An ``Estimate`` x is kept as x, x_lo, x_hi. NaN and infinity are refused."""
        flat: dict[str, float] = {}
        for name, value in values.items():
            if not _METRIC.fullmatch(name):
                raise BookError(f"metric {name!r}: use small letters, digits and '_'")
            if all(hasattr(value, part) for part in ("value", "lo", "hi")):
                flat |= {name: value.value, f"{name}_lo": value.lo, f"{name}_hi": value.hi}
            else:
                flat[name] = value
        self.metrics |= {name: _number(name, value) for name, value in flat.items()}
        return self

    def record(self) -> Record:
        """The record as it stands now."""
        helpers = {**_imported_sha256(), **self._helpers}
        return Record(
            chapter=self.chapter,
            profile=self.profile,
            parameters=_scrub(self.parameters),
            metrics=dict(self.metrics),
            data=_scrub(self.sources),
            seed=self.seed,
            versions=_versions(),
            hardware=_hardware(),
            wall_seconds=round(time.time() - self._began, 1),
            peak_memory_mb=round(_peak_memory_mb(), 1),
            peak_gpu_memory_mb=_peak_gpu_memory_mb(),
            resumed=self.resume,
            notebook_sha256=self._notebook,
            helpers_sha256=helpers,
            created_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **_git(),
        )

    def finish(self) -> pd.DataFrame:
        """Write the record (one process of a distributed run does) and return a table of it for the page."""
        record = self.record()
        content = record.as_dict()
        validate(content, f"the record of {self.chapter}")
        if int(os.environ.get("RANK", "0")) == 0:
            io.write_json(self.dir / (PENDING if self.under_runner else RECORD), content)
        return _table(record)


def start(chapter: str, *, profile: str, seed: int, parameters: Mapping[str, Any]) -> Run:
    """Begin the record of a chapter's run.

    Under ``helpers.run`` the folder and ``resume`` come from it (BOOK_RUN_DIR, BOOK_RESUME); in a notebook
    opened by hand the folder is ``_runs/CHAPTER/interactive``.
    """
    _check_profile(profile)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise BookError(f"seed: {seed!r} is not an int")
    given = os.environ.get("BOOK_RUN_DIR")
    with contextlib.suppress(BookError):  # outside the repository: keep all that is given
        names = chapters.parameters(chapter)
        parameters = {name: value for name, value in parameters.items() if name in names}
    began = time.time()
    if given:  # the kernel was started for this run: its imports count too
        import psutil

        began = psutil.Process().create_time()
    return Run(
        chapter=chapter,
        profile=profile,
        seed=seed,
        parameters=dict(parameters),
        dir=Path(given) if given else runs_root() / chapter / "interactive",
        resume=os.environ.get("BOOK_RESUME", "") == "1",
        under_runner=bool(given),
        _began=began,
        _notebook=_notebook_now(chapter),
        _helpers=_imported_sha256(),
    )


def _number(name: str, value: Any) -> float:
    """A Python int or float from a number, a NumPy scalar or a 0-d array or tensor."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BookError(
            f"metric {name}: {type(value).__name__} is not a number (log a float, an int or an Estimate)"
        )
    if not math.isfinite(value):
        raise BookError(f"metric {name} is {value}: a record holds finite numbers only; find out why")
    return value


def _describe_data(source: Any) -> dict[str, Any]:
    provenance = getattr(source, "provenance", source)
    if not getattr(provenance, "name", None):
        raise BookError(f"run.data: {type(source).__name__} has no provenance; pass a Cohort or a Provenance")
    entry = {"name": str(provenance.name)}
    for key in ("source", "licence", "citation"):
        if text := getattr(provenance, key, ""):
            entry[key] = str(text)
    if files := getattr(provenance, "sha256", None):
        listed = "\n".join(f"{name} {digest}" for name, digest in sorted(files.items()))
        entry |= {"files": len(files), "files_sha256": hashlib.sha256(listed.encode()).hexdigest()}
    if source is not provenance:
        if digest := getattr(source, "hash", None):
            entry["hash"] = str(digest() if callable(digest) else digest)
        if hasattr(source, "__len__"):  # where a row is not a person (slices), n_subjects says how many
            entry["n_subjects"] = int(getattr(source, "n_subjects", len(source)))
        if regions := getattr(source, "n_regions", None):
            entry["n_regions"] = int(regions)
    return entry


# --- what the machine and the code were -----------------------------------------------------------


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _hardware() -> dict[str, Any]:
    import psutil

    gpu, gpus = None, 0
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
        gpus = int(os.environ.get("WORLD_SIZE", "1"))
    elif torch is not None and torch.backends.mps.is_available():
        gpu, gpus = "Apple GPU", 1
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return {
        "cpu": _cpu(),
        "cores": cores,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu,
        "gpus": gpus,
        "system": platform.system() or "unknown",
    }


@functools.cache
def _cpu() -> str:
    """Model name of the processor."""
    text = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "linux":
            lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
            text = next((line.partition(":")[2] for line in lines if line.startswith("model name")), "")
        elif sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            text = subprocess.run(command, capture_output=True, text=True, timeout=5).stdout
    text = text or platform.processor() or platform.machine() or "unknown"
    return " ".join(re.sub(r"\((?:R|TM)\)|CPU|Processor|@.*", " ", text).split()) or "unknown"


def _peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    with contextlib.suppress(OSError):  # getrusage would count the parent's memory from before exec
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def _peak_gpu_memory_mb() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def _git() -> dict[str, Any]:
    """Revision of the repository, and whether tracked files differ from it; None without git."""
    unknown = {"git_revision": None, "git_dirty": None}
    root = repo_root()
    if root is None or not (root / ".git").exists():
        return unknown

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        return {
            "git_revision": git("rev-parse", "HEAD"),
            "git_dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return unknown


def _notebook_now(chapter: str) -> str | None:
    try:
        return chapters.notebook_sha256(chapter)
    except BookError:  # no repository here (Colab), or no such chapter in it
        return None


def _package_folder() -> Path:
    return Path(__file__).resolve().parent


def _imported_sha256() -> dict[str, str]:
    """Hashes of the helper modules imported so far, of the assets, and of other chapters that were loaded."""
    names = {name for name, module in list(sys.modules.items()) if _is_helper(name, module)}
    if names & {"helpers.data", "helpers.simulate"} and (_package_folder() / "assets").is_dir():
        names.add("helpers.assets")
    found = {name: digest for name in sorted(names) if (digest := _source_sha256(name))}
    return found | {f"notebooks/{name}": digest for name, digest in chapters.loaded().items()}


def _is_helper(name: str, module: Any) -> bool:
    return (name == "helpers" or name.startswith("helpers.")) and bool(getattr(module, "__file__", None))


def _source_sha256(name: str) -> str | None:
    """Hash of a helper module's file, of all assets (``helpers.assets``), or of a chapter's code
    (``notebooks/...``).

    None when it no longer exists.
    """
    if name.startswith("notebooks/"):
        return _notebook_now(name.partition("/")[2])
    base = _package_folder().joinpath(*name.split(".")[1:])
    if name == "helpers.assets":
        digest = hashlib.sha256()
        for file in sorted(
            f for f in base.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc", ".md")
        ):
            digest.update(f"{file.relative_to(base).as_posix()} {io.sha256(file)}\n".encode())
        return digest.hexdigest()
    for file in (
        base.with_name(base.name + ".py") if name != "helpers" else base / "__init__.py",
        base / "__init__.py",
    ):
        if file.is_file():
            return io.sha256(file)
    return None


# --- privacy --------------------------------------------------------------------------------------


def _texts(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    """All strings in nested dicts and lists, with their dotted names."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{name}.{number}")


def _scrub(value: Any) -> Any:
    """The same nested value with local paths cut to their last part: ``/data/me/abide`` is ``.../abide``."""
    if isinstance(value, dict):
        return {key: _scrub(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrub(item) for item in value]
    if not isinstance(value, str):
        return value
    if _LOCAL_PATH.match(value):
        return ".../" + re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return re.sub(r"(?<![\w:/])~?/(?:[\w.-]+/)+", ".../", value)


def _short(path: Path | str) -> str:
    """A path as it reads from the repository, for messages."""
    path, root = Path(path), repo_root()
    with contextlib.suppress(ValueError, TypeError):
        return str(path.resolve().relative_to(root))
    return str(path)


def _check_profile(profile: str) -> None:
    if profile not in PROFILES:
        raise BookError(f"unknown profile {profile!r}{chapters.suggest(profile, PROFILES)}")


# --- keeping --------------------------------------------------------------------------------------


def keep(chapter: str, profile: str) -> Path:
    """Check the record of the last run and copy it to ``runs/CHAPTER/PROFILE.json``.

    Raises MissingData without a finished run, and BookError for a damaged record or one of another run.
    """
    _check_profile(profile)
    chapters.path(chapter)
    source = runs_root() / chapter / profile / RECORD
    if not source.is_file():
        raise MissingData(
            f"no finished {profile} run of {chapter} ({_short(source)} is not there): run"
            f" python -m helpers.run {chapter} --profile {profile}"
        )
    record = read(source)
    if (record.chapter, record.profile) != (chapter, profile):
        raise BookError(
            f"{_short(source)} is a record of {record.chapter}, {record.profile}: run {chapter} again"
        )
    return io.write_json(records_root() / chapter / f"{profile}.json", record.as_dict())


# --- for the pages --------------------------------------------------------------------------------


def seconds(value: float) -> str:
    """``"8 s"``, ``"3 min 20 s"``, ``"2 h 05 min"``."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(megabytes: float) -> str:
    """``"1.3 GB"``."""
    return f"{megabytes / 1024:.1f} GB"


def _date(record: Record) -> str:
    day = datetime.strptime(record.created_utc, "%Y-%m-%dT%H:%M:%SZ")
    return f"{day.day} {day:%B %Y}"


def state(record: Record) -> str:
    """``"current"``, or what has changed since."""
    changed = record.stale()
    return f"made with an earlier version of: {', '.join(changed)}" if changed else "current"


def _missing(profile: str) -> str:
    """Why there is no record: never run, or no repository here (a notebook opened alone, as in Colab)."""
    return NOT_RUN[profile] if repo_root() else "the book has the records"


def metric(chapter: str, profile: str, name: str) -> Estimate | float | None:
    """A number from a committed record: an ``Estimate`` if it has an interval; None if there is none."""
    record = load(chapter, profile)
    return record.metric(name) if record else None


def glance(chapter: str) -> pd.DataFrame:
    """Time, memory, machine and date of each profile's committed record, for the *At a glance* table."""
    import pandas as pd

    rows = []
    for profile in PROFILES:
        record = load(chapter, profile)
        if record is None:
            rows.append([profile, "", "", "", "", _missing(profile)])
        else:
            time_taken, used = seconds(record.wall_seconds), memory(record.peak_memory_mb)
            rows.append([profile, time_taken, used, record.machine, _date(record), state(record)])
    return pd.DataFrame(rows, columns=["profile", "time", "memory", "machine", "date", "state"]).set_index(
        "profile"
    )


def note(chapter: str, profile: str) -> str:
    """One sentence for the page: when and where the committed record was made, and what changed since."""
    record = load(chapter, profile)
    if record is None:
        return f"{chapter} has no {profile} record: {_missing(profile)}."
    changed = record.stale()
    earlier = f", made with an earlier version of: {', '.join(changed)}" if changed else ""
    return (
        f"The {profile} record is of {_date(record)}, on {record.machine}: {seconds(record.wall_seconds)},"
        f" {memory(record.peak_memory_mb)} of memory{earlier}."
    )


def compare(
    chapter: str,
    live: Mapping[str, Any] | Run,
    names: Iterable[str] | Mapping[str, str],
    paper: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """The table *At full scale*: the paper, this page's run, and the committed public and full records.

    ``names`` are metrics, or a dict of row label -> metric; ``live`` and ``paper`` are keyed by metric.
    ``live`` may be the ``Run`` itself. A row without a value says why.
    """
    import pandas as pd

    rows = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    if isinstance(live, Run):
        live = _nested(live.metrics)
    records = {profile: load(chapter, profile) for profile in ("public", "full")}
    table: dict[str, list[str]] = {
        "paper": [],
        "embedded (live)": [],
        "public (record)": [],
        "full (record)": [],
    }
    for name in rows.values():
        table["paper"].append(_show((paper or {}).get(name), "not available to us"))
        table["embedded (live)"].append(_show(live.get(name), "not computed"))
        for profile, record in records.items():
            value = record.metric(name) if record else None
            table[f"{profile} (record)"].append(_show(value, "not recorded" if record else _missing(profile)))
    return pd.DataFrame(table, index=list(rows))


def _nested(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Flat metrics with their intervals put together."""
    shown: dict[str, Any] = {}
    for name, value in metrics.items():
        lo, hi = metrics.get(f"{name}_lo"), metrics.get(f"{name}_hi")
        shown[name] = value if lo is None or hi is None else f"{value:.2f} [{lo:.2f}, {hi:.2f}]"
    return shown


def _show(value: Any, missing: str) -> str:
    if value is None:
        return missing
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e-2 or abs(value) >= 1e4 else f"{value:.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _table(record: Record) -> pd.DataFrame:
    """The record as two columns, for the end of a chapter."""
    import pandas as pd

    data = "; ".join(f"{d['name']}" + (f" ({d['hash'][:12]})" if "hash" in d else "") for d in record.data)
    revision = (record.git_revision or "unknown")[:10] + (" with local changes" if record.git_dirty else "")
    rows = {
        "chapter": record.chapter,
        "profile": record.profile,
        "data": data or "none",
        "seed": record.seed,
        "wall time": seconds(record.wall_seconds),
        "peak memory": memory(record.peak_memory_mb),
        "machine": record.machine,
        "versions": ", ".join(
            f"{k} {v}" for k, v in record.versions.items() if k in ("python", "torch", "numpy")
        ),
        "revision": revision,
        "notebook": (record.notebook_sha256 or "unknown")[:12],
        "date": record.created_utc,
    }
    return pd.DataFrame({"value": [str(v) for v in rows.values()]}, index=list(rows))


# --- command line ---------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """``python -m helpers.records keep CHAPTER PROFILE``; 0, or 2 when refused."""
    parser = argparse.ArgumentParser(prog="python -m helpers.records", description="Committed run records.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "keep", help="copy the record of the last good run to runs/, to be committed"
    )
    command.add_argument("chapter")
    command.add_argument("profile")
    given = parser.parse_args(arguments)
    try:
        print(_short(keep(given.chapter, given.profile)))
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
