"""``python -m helpers.ingest fmriprep DERIVATIVES --atlas A --out cohort.zarr`` (and ``eeg BIDS_ROOT``).

Exit codes: 0 the cohort is written (runs that were left out are listed); 1 no run was fit; 2 refused, nothing
was done. A call that was cut short is simply made again: runs that are done are found done.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from helpers import io, store
from helpers.data.cohort import Atlas, Provenance
from helpers.errors import BookError
from helpers.ingest import atlases, eeg, fmriprep, participants, report, work
from helpers.ingest.work import Run


class NothingFit(BookError):
    """Every run was left out."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BookError(f"{message} (see python -m helpers.ingest --help)")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m helpers.ingest", description=__doc__.splitlines()[0], allow_abbrev=False)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, root, text in (
        ("fmriprep", "DERIVATIVES", "derivatives of fMRIPrep"),
        ("eeg", "BIDS_ROOT", "raw EEG in BIDS"),
    ):
        one = kinds.add_parser(kind, help=text, allow_abbrev=False)
        one.add_argument("root", metavar=root)
        one.add_argument("--out", required=True, help="a new folder NAME.zarr, or an address")
        one.add_argument("--name", help="what the cohort is called (default: the name of --out)")
        one.add_argument("--task", help="which task, where there are several")
        one.add_argument(
            "--atlas", default="schaefer100", help=f"{', '.join(atlases.NAMES)}, or a label image"
        )
        one.add_argument("--participants", metavar="FILE", help="participants.tsv")
        one.add_argument(
            "--column",
            action="append",
            default=[],
            metavar="group=diagnosis",
            help="which column of participants.tsv holds age, sex, site or group",
        )
        one.add_argument(
            "--value",
            action="append",
            default=[],
            metavar="group=patient:ASD,control:TD",
            help="how its values are to be read",
        )
        one.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="site=Leipzig",
            dest="constants",
            help="what holds for everybody",
        )
        one.add_argument(
            "--runs",
            choices=("longest", "concat"),
            default="longest",
            help="several runs of a subject: the longest (default), or all, one after the other",
        )
        one.add_argument("--licence", default="not stated")
        one.add_argument("--citation", default="not stated")
        one.add_argument("--jobs", type=int, default=1, help="runs at a time; 0: all cores")
        one.add_argument("--work", metavar="FOLDER", help="where finished runs are kept (default: OUT.work)")
        one.add_argument("--report", metavar="FOLDER", help="default: OUT.report")
        settings = fmriprep.Settings if kind == "fmriprep" else eeg.Settings
        for name, value in asdict(settings()).items():
            of = float if value is None else type(value)
            one.add_argument(f"--{name.replace('_', '-')}", type=of, default=value, help=f"default {value}")
        if kind == "fmriprep":
            one.add_argument("--space", help="which MNI space, where there are several")
    return parser.parse_args(arguments)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    try:
        ingest(_parse(arguments))
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, NothingFit) else 2
    except KeyboardInterrupt:
        print("error: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def ingest(given: argparse.Namespace) -> store.Store:
    """Everything, checked first; returns the new store."""
    root, out = Path(given.root), given.out
    if not store.is_url(out) and Path(out).exists():
        raise BookError(f"{out} exists already: choose another name")
    base = out.rstrip("/").rsplit("/", 1)[-1] if store.is_url(out) else out
    folder, page = Path(given.work or f"{base}.work"), Path(given.report or f"{base}.report")
    if given.kind == "eeg":
        eeg.check_installed()
        runs = eeg.find(root, task=given.task)
    else:
        runs = fmriprep.find(root, task=given.task, space=given.space)
    table = participants.read(
        participants.find(root, given.participants),
        columns=participants.pairs(given.column, "--column"),
        values=participants.pairs(given.value, "--value"),
        constants=participants.pairs(given.constants, "--set"),
    )
    regions = atlases.find(given.atlas)
    settings, do = _task(given, root, regions)
    about = asdict(settings) | {"atlas": regions.atlas.name, "kind": given.kind}
    if Path(given.atlas).is_file():
        about["atlas_sha256"] = io.sha256(given.atlas)
    jobs = work.jobs(given.jobs)
    print(f"{len(runs)} runs of {len({r.subject for r in runs})} subjects, {jobs} at a time", flush=True)
    done = work.all_of(runs, do, folder, about, jobs, functools.partial(print, flush=True))
    for run in done:
        run.reason = run.reason or _stranger(run, table)
    chosen = _choose(done, given.runs)
    used = [run.name for parts in chosen.values() for run in parts]
    try:
        if not chosen:
            raise NothingFit(f"none of {len(runs)} runs is fit for use: see {page / 'index.html'}")
        provenance = Provenance(
            name=given.name or Path(base).stem,
            source=f"own data ({given.kind})",
            licence=given.licence,
            citation=given.citation,
            notes="; ".join(f"{k} {v}" for k, v in about.items() if k != "atlas"),
        )
        mine = _write(out, chosen, table, regions.atlas, provenance, folder, given.runs)
    finally:
        report.write(page, f"Quality of {base}", done, used, about | {"runs": given.runs}, folder)
    left_out = [run for run in done if run.reason]
    for run in left_out:
        print(f"left out: {run.name}: {run.reason}")
    print(f"{mine!r}\n{len(used)} runs used, {len(left_out)} left out; report: {page / 'index.html'}")
    return mine


def _task(
    given: argparse.Namespace, root: Path, regions: atlases.Regions
) -> tuple[Any, Callable[[Run, Path], Run]]:
    kind = fmriprep if given.kind == "fmriprep" else eeg
    names = asdict(kind.Settings()).keys()
    settings = kind.Settings(**{name: getattr(given, name) for name in names})
    if given.kind == "fmriprep":
        return settings, functools.partial(fmriprep.process, regions=regions, settings=settings)
    coords = regions.atlas.coords
    return settings, functools.partial(eeg.process, root=root, coords=coords, settings=settings)


def _stranger(run: Run, table: Any) -> str:
    if run.subject not in table.index:
        return f"{run.subject} is not in participants.tsv"
    return participants.trouble(table.loc[run.subject])


def _choose(runs: Sequence[Run], how: str) -> dict[str, list[Run]]:
    """The runs that are used, by subject: the longest in seconds, or all of them."""
    good: dict[str, list[Run]] = {}
    for run in runs:
        if not run.reason:
            good.setdefault(run.subject, []).append(run)
    if how == "concat":
        return good
    return {subject: [max(parts, key=_seconds)] for subject, parts in good.items()}


def _seconds(run: Run) -> float:
    return float(run.quality.get("seconds", run.quality.get("kept", 0) * run.quality.get("TR (s)", 0)))


def _write(
    out: str,
    chosen: dict[str, list[Run]],
    table: Any,
    atlas: Atlas,
    provenance: Provenance,
    folder: Path,
    how: str,
) -> store.Store:
    with store.Writer(out, atlas=atlas, provenance=provenance, on_constant="zero") as writer:
        for subject, parts in chosen.items():
            loaded = [work.load(folder, run.name, series=True)[0] for run in parts]
            if max(run.tr for run in loaded) > 1.01 * min(run.tr for run in loaded):
                raise BookError(f"{subject}: its runs have different repetition times: say --tr SECONDS")
            series = (
                loaded[0].series if how == "longest" else np.hstack([_standard(r.series) for r in loaded])
            )
            writer.add(series, tr=loaded[0].tr, participant=dict(table.loc[subject]))
    return store.Store(out, expect=writer.hash)


def _standard(x: np.ndarray) -> np.ndarray:
    spread = x.std(axis=1, keepdims=True)
    return (x - x.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)


if __name__ == "__main__":
    sys.exit(main())
