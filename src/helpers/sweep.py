"""Many runs of one chapter: ``python -m helpers.sweep CHAPTER --profile P --grid seed=0:10 name=a,b``.

Every combination of the grid is a run of ``helpers.run`` in a process and a folder of its own, under
``_runs/sweeps/CHAPTER/PROFILE/``. A run that ended well with the same parameters and the present code is not
run again; one that was interrupted goes on from its checkpoint; one that failed is tried again. At the end
there is one table (``table.csv``: a row a run, its parameters, state and metrics) and one picture
(``intervals.png``: the mean over seeds with its 95 % interval, for each combination of the rest).

Dask does the running: threads here that each wait for a process (``--workers``), or jobs of a SLURM cluster
(``--slurm cores=8 memory=32GB ...``), one run a job at a time. The folder must be seen by all of them.

Exit codes: 0 all ended well; 1 some failed (they are listed); 2 refused, nothing ran; 130 stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from helpers import chapters, io, records, run
from helpers.errors import BookError
from helpers.paths import repo_root, runs_root

if TYPE_CHECKING:
    import pandas as pd

TABLE, PICTURE, LIST = "table.csv", "intervals.png", "sweep.json"
MOST = 10_000
SEEDS = ("seed", "fold", "repeat")  # averaged over in the picture
REFUSED = 2
_children: set[subprocess.Popen] = set()


class SomeFailed(BookError):
    """Runs failed; the others are in the table."""


@dataclass
class Job:
    """One run of the grid: its values, its folder, and what became of it."""

    chapter: str
    profile: str
    values: dict[str, Any]
    fixed: dict[str, Any]
    folder: Path  # stands in for _runs
    state: str = "waiting"
    attempts: int = 0
    seconds: float = float("nan")
    error: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " ".join(f"{k}={_text(v)}" for k, v in self.values.items()) or "as configured"

    @property
    def output(self) -> Path:
        """The folder in which helpers.run leaves record.json."""
        return self.folder / self.chapter / self.profile


# --- the grid ----------------------------------------------------------------------------------------


def grid(words: Sequence[str], known: Mapping[str, chapters.Parameter]) -> dict[str, list[Any]]:
    """``seed=0:10 masking=paper,public`` as lists of typed values. ``a:b`` and ``a:b:step`` leave b out."""
    found: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals and text):
            raise BookError(f"--grid {word}: write --grid name=a,b or name=0:10")
        if name in found:
            raise BookError(f"--grid {name} is given twice")
        if name not in known or name == "profile":
            hint = chapters.suggest(name, [k for k in known if k != "profile"])
            raise BookError(f"--grid {word}: unknown parameter {name!r}{hint}")
        span = re.fullmatch(r"(-?\d+):(-?\d+)(?::(\d+))?", text)
        if span and known[name].kind == "int" and not known[name].is_list:
            start, stop, step = (int(x) if x else 1 for x in span.groups())
            if step == 0 or len(range(start, stop, step)) > MOST:
                raise BookError(f"--grid {word}: more than {MOST} values, or a step of zero")
            values = list(range(start, stop, step))
        else:
            parts = text.split(";") if known[name].is_list else text.split(",")
            values = [run.from_text([f"{name}={part}"], known)[name] for part in parts]
        values = [known[name].check(value) for value in values]
        if not values or len({repr(v) for v in values}) < len(values):
            raise BookError(f"--grid {word}: give at least one value, each once")
        found[name] = values
    return found


def plan(
    chapter: str, profile: str, axes: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any], root: Path
) -> list[Job]:
    """All runs of the grid, checked as helpers.run would check them."""
    number = math.prod(len(values) for values in axes.values())
    if number > MOST:
        raise BookError(f"the grid has {number} runs, more than {MOST}: make it smaller")
    both = sorted(set(axes) & set(fixed))
    if both:
        raise BookError(f"{both[0]} is in --grid and in -p: choose one")
    jobs = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        whole = run.resolve(chapter, profile, {**fixed, **chosen})
        key = hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:8]
        slug = re.sub(r"[^\w.=-]+", "_", "_".join(f"{k}={_text(v)}" for k, v in chosen.items()))[:80]
        jobs.append(Job(chapter, profile, chosen, dict(fixed), root / f"{slug or 'run'}_{key}"))
    return jobs


def _text(value: Any) -> str:
    """A value as ``-p name=value`` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


# --- one run -----------------------------------------------------------------------------------------


def look(job: Job) -> bool:
    """Whether the run ended well, with these parameters and the present code; then its metrics are read."""
    try:
        record = records.read(job.output / records.RECORD)
    except BookError:
        return False
    wanted = run.resolve(job.chapter, job.profile, {**job.fixed, **job.values})
    if run.read_state(job.output).get("parameters") != wanted or record.stale():
        return False
    job.state, job.metrics, job.seconds = "finished", record.metrics, record.wall_seconds
    return True


def command(job: Job) -> list[str]:
    words = [sys.executable, "-m", "helpers.run", job.chapter, "--profile", job.profile, "--continue"]
    for name, value in {**job.fixed, **job.values}.items():
        words += ["-p", f"{name}={_text(value)}"]
    return words


def attempt(words: list[str], folder: str, where: str, threads: int) -> dict[str, Any]:
    """Run once, on whatever machine Dask chose."""
    began = time.monotonic()
    environment = {**os.environ, "BOOK_RUNS": folder}
    if threads:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "BOOK_RUN_DIR", "BOOK_RESUME"):
        environment.pop(name, None)
    process = subprocess.Popen(
        words, cwd=where, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _children.add(process)
    error = process.communicate()[1]
    _children.discard(process)
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    told = lines[-1].removeprefix("error: ") if lines else error.strip()[-300:]
    code = process.returncode
    return {"code": code, "error": "" if code == 0 else told, "seconds": time.monotonic() - began}


# --- all of them -------------------------------------------------------------------------------------


def cluster(workers: int, slurm: Sequence[str]) -> Any:
    """Dask's cluster: threads of this process, or SLURM jobs with the given ``name=value`` settings."""
    try:
        import distributed
    except ImportError:
        from helpers.store import INSTALL

        raise BookError(f"sweeps need dask.distributed, which is not installed: {INSTALL}") from None
    if not slurm:
        return distributed.LocalCluster(
            n_workers=1, threads_per_worker=workers, processes=False, dashboard_address=None
        )
    settings: dict[str, Any] = {"cores": 1, "memory": "8GB", "processes": 1}
    for word in slurm:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise BookError(f"--slurm {word}: write name=value, for example queue=gpu")
        if name.endswith("directives") or name.endswith("prologue"):
            settings.setdefault(name, []).append(value)
        else:
            settings[name] = int(value) if value.isdigit() else value
    cpus = settings.pop("cores")  # one run at a time in a job, whatever its cores
    settings = {"job_cpu": cpus, **settings}
    import dask_jobqueue

    try:
        found = dask_jobqueue.SLURMCluster(
            cores=1, python=sys.executable, scheduler_options={"dashboard_address": None}, **settings
        )
    except (TypeError, ValueError) as error:
        raise BookError(f"--slurm: {error}") from error
    found.scale(jobs=workers)
    return found


def go(jobs: Sequence[Job], dask: Any, *, retries: int, threads: int) -> Iterator[Job]:
    """Run all that are waiting; yields each as it ends, well or not."""
    import distributed

    where = str(repo_root() or Path.cwd())
    with distributed.Client(dask) as client:

        def submit(job: Job) -> Any:
            job.state, job.attempts = "running", job.attempts + 1
            words = (command(job), str(job.folder), where, threads)
            return client.submit(attempt, *words, pure=False, retries=0)

        waiting = {submit(job): job for job in jobs if job.state == "waiting"}
        queue = distributed.as_completed(list(waiting))
        for future in queue:
            job = waiting.pop(future)
            try:
                result = future.result()
            except Exception as error:  # a worker died: the same as a run that died
                result = {
                    "code": 1,
                    "error": f"{type(error).__name__}: {error}"[:300],
                    "seconds": float("nan"),
                }
            if result["code"] == 0 and look(job):
                yield job
                continue
            job.error = result["error"] or "the run left no record"
            if result["code"] not in (0, REFUSED) and job.attempts <= retries:
                again = submit(job)
                waiting[again] = job
                queue.add(again)
                continue
            job.state, job.seconds = "failed", result["seconds"]
            yield job


def table(jobs: Sequence[Job]) -> pd.DataFrame:
    """One row a run: its values, state, attempts, seconds, error, then every metric."""
    import pandas as pd

    rows = []
    for job in jobs:
        state = {"state": job.state, "attempts": job.attempts, "seconds": job.seconds, "error": job.error}
        values = {k: _text(v) if isinstance(v, list) else v for k, v in job.values.items()}
        rows.append({**values, **state, **job.metrics})
    return pd.DataFrame(rows)


def summary(jobs: Sequence[Job], metric: str) -> dict[str, Any]:
    """Mean over seeds (and folds) with its 95 % interval by Student's t, for each combination of the rest.

    Of one run alone it is the run's own interval, or the number where it has none.
    """
    import numpy as np
    from scipy import stats

    from helpers.evaluate import Estimate

    groups: dict[str, list[Job]] = {}
    for job in jobs:
        if job.state == "finished" and metric in job.metrics:
            rest = {k: v for k, v in job.values.items() if k not in SEEDS}
            name = ", ".join(f"{k} {_text(v)}" for k, v in rest.items()) or f"{len(jobs)} runs"
            groups.setdefault(name, []).append(job)
    found: dict[str, Any] = {}
    for name, members in groups.items():
        x = np.array([job.metrics[metric] for job in members])
        if len(x) > 1:
            half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
            found[name] = Estimate(float(x.mean()), float(x.mean() - half), float(x.mean() + half))
        else:
            own = members[0].metrics
            lo, hi = own.get(f"{metric}_lo", x[0]), own.get(f"{metric}_hi", x[0])
            found[name] = Estimate(float(x[0]), float(lo), float(hi))
    return found


def main_metric(jobs: Sequence[Job], given: str | None) -> str | None:
    """The metric of the picture: the one given, else the first with an interval, else the first."""
    names = list(dict.fromkeys(name for job in jobs for name in job.metrics))
    if given:
        if names and given not in names:
            raise BookError(f"--metric {given}: the runs have {', '.join(names[:12])}")
        return given
    plain = [n for n in names if not n.endswith(("_lo", "_hi"))]
    return next((n for n in plain if f"{n}_lo" in names), plain[0] if plain else None)


def draw(jobs: Sequence[Job], metric: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg", force=False)
    import matplotlib.pyplot as plt

    from helpers import plot

    rows = summary(jobs, metric)
    if not rows:
        return
    chapter, profile = jobs[0].chapter, jobs[0].profile
    axis = plot.intervals(
        rows, title=f"{chapter}, {profile}: mean over runs and 95 % interval", xlabel=metric
    )
    for k, name in enumerate(rows):
        for job in jobs:
            rest = ", ".join(f"{k} {_text(v)}" for k, v in job.values.items() if k not in SEEDS)
            if job.state == "finished" and metric in job.metrics and (rest or name) == name:
                axis.plot(job.metrics[metric], k + 0.22, ".", color="#777777", ms=4)
    with io.atomic(path) as temp, open(temp, "wb") as file:
        axis.figure.savefig(file, format="png", dpi=120, bbox_inches="tight")
    plt.close(axis.figure)


def sweep(
    chapter: str,
    profile: str,
    axes: Mapping[str, Sequence[Any]],
    *,
    fixed: Mapping[str, Any] | None = None,
    workers: int = 1,
    retries: int = 1,
    slurm: Sequence[str] = (),
    metric: str | None = None,
    again: bool = False,
) -> list[Job]:
    """Run the grid; returns its jobs. ``again`` runs also those that ended well."""
    root = runs_root() / "sweeps" / chapter / profile
    jobs = plan(chapter, profile, axes, fixed or {}, root)
    done = [job for job in jobs if not again and look(job)]
    todo = len(jobs) - len(done)
    print(f"{chapter} {profile}: {len(jobs)} runs, {len(done)} ended well before, {todo} to do", flush=True)
    io.make_folder(root)
    try:
        if todo:
            _run(jobs, todo, workers, retries, slurm)
    finally:
        rows = table(jobs)
        io.atomic_write(root / TABLE, rows.to_csv(index=False))
        name = main_metric(jobs, metric)
        if name:
            draw(jobs, name, root / PICTURE)
    failed = [job for job in jobs if job.state == "failed"]
    for job in failed:
        print(f"failed ({job.attempts} attempts): {job.name}: {job.error}; see {job.output}", flush=True)
    if name:
        for group, estimate in summary(jobs, name).items():
            print(f"{name}, {group}: {estimate:.3f}")
    print(f"table: {root / TABLE}\npicture: {root / PICTURE}", flush=True)
    if failed:
        raise SomeFailed(f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again")
    return jobs


def _run(jobs: Sequence[Job], todo: int, workers: int, retries: int, slurm: Sequence[str]) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = 0 if slurm else max(1, cores // workers)
    began, ended = time.monotonic(), 0
    dask = cluster(min(workers, todo), slurm)
    try:
        for job in go(jobs, dask, retries=retries, threads=threads):
            ended += 1
            left = (time.monotonic() - began) / ended * (todo - ended)
            what = "done" if job.state == "finished" else f"failed: {job.error}"
            rest = f", about {records.seconds(left)} left" if ended < todo else ""
            print(f"{ended}/{todo} {job.name}: {what} ({records.seconds(job.seconds)}{rest})", flush=True)
    except KeyboardInterrupt:
        for child in list(_children):  # they close their kernels and keep their checkpoints
            child.send_signal(signal.SIGINT)
        for child in list(_children):
            child.wait(30)
        raise
    finally:
        dask.close()


# --- command line ------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BookError(f"{message} (see python -m helpers.sweep --help)")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m helpers.sweep", description="Many runs of one chapter.", allow_abbrev=False
    )
    parser.add_argument("chapter")
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--grid", nargs="+", default=[], metavar="NAME=VALUES", help="seed=0:10 name=a,b")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time; with --slurm: jobs")
    parser.add_argument("--retries", type=int, default=1, help="further attempts of a run that failed")
    parser.add_argument("--metric", help="of the picture (default: the first with an interval)")
    parser.add_argument("--again", action="store_true", help="run also what ended well before")
    parser.add_argument(
        "--slurm",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="cores=8 memory=32GB queue=gpu walltime=08:00:00 job_extra_directives=--gres=gpu:1",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the runs (and the job script), run nothing"
    )
    return parser.parse_args(arguments)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    try:
        given = _parse(arguments)
        known = chapters.parameters(given.chapter)
        if given.workers < 1 or given.retries < 0:
            raise BookError("--workers is at least 1 and --retries at least 0")
        axes, fixed = grid(given.grid, known), run.from_text(given.parameter, known)
        if given.dry_run:
            _show(given, axes, fixed)
            return 0
        sweep(
            given.chapter, given.profile, axes, fixed=fixed, workers=given.workers, retries=given.retries,
            slurm=given.slurm, metric=given.metric, again=given.again,
        )  # fmt: skip
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, SomeFailed) else 2
    except KeyboardInterrupt:
        print("error: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _show(given: argparse.Namespace, axes: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any]) -> None:
    root = runs_root() / "sweeps" / given.chapter / given.profile
    for job in plan(given.chapter, given.profile, axes, fixed, root):
        print(f"{'ended well' if look(job) else 'to do'}: {' '.join(command(job)[1:])}")
    if given.slurm:
        dask = cluster(0, given.slurm)
        print(dask.job_script())
        dask.close()


if __name__ == "__main__":
    sys.exit(main())
