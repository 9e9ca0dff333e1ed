"""One BIDS recording of EEG -> series in regions, by the steps of :func:`helpers.eeg.preprocess`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.errors import BookError
from helpers.ingest import report
from helpers.ingest.work import Run

ENDS = (".vhdr", ".edf", ".bdf", ".set")


@dataclass(frozen=True)
class Settings:
    """Band and sampling rate (Hz) of the result, and how bad pieces are found."""

    low: float = 1.0
    high: float = 45.0
    sfreq: float = 125.0
    reject: str = "autoreject"
    min_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < self.sfreq / 2.2:
            raise BookError(f"band {self.low:g} to {self.high:g} Hz does not fit a rate of {self.sfreq:g} Hz")
        if self.reject not in ("autoreject", "threshold", "none"):
            raise BookError(f"--reject {self.reject}: choose autoreject, threshold or none")


def find(root: Path, *, task: str | None = None) -> list[Run]:
    """The EEG recordings of a BIDS folder, in order of their names."""
    if not root.is_dir():
        raise BookError(f"{root} is not a folder")
    found = [
        path
        for path in sorted(root.glob("sub-*/**/eeg/sub-*_eeg.*"))
        if path.suffix in ENDS and (not task or f"_task-{task}_" in path.name)
    ]
    if not found:
        raise BookError(f"no recording sub-*/eeg/*_eeg.*{f' of task {task}' if task else ''} under {root}")
    tasks = {part for p in found for part in p.stem.split("_") if part.startswith("task-")}
    if len(tasks) > 1:
        raise BookError(f"several tasks ({', '.join(sorted(tasks))}): say --task NAME")
    runs = []
    for path in found:
        stem = path.name.removesuffix(f"_eeg{path.suffix}")
        files = [path, *sorted(p for p in path.parent.glob(f"{stem}_*") if p != path)]
        runs.append(Run(stem, path.name.split("_")[0], files))
    return runs


def process(run: Run, picture: Path, *, root: Path, coords: np.ndarray, settings: Settings) -> Run:
    """One recording from file to clean series; ``run.reason`` says why it is not to be used."""
    import mne
    import mne_bids

    from helpers.eeg import preprocess

    path = run.files[0]
    where = mne_bids.get_bids_path_from_fname(path, verbose="error")
    where.update(root=root, datatype="eeg")
    with mne.use_log_level("error"):
        raw = mne_bids.read_raw_bids(where, verbose="error")
        raw.load_data()
    reject = None if settings.reject == "none" else settings.reject
    clean = preprocess(
        raw,
        coords,
        band=(settings.low, settings.high),
        sfreq=settings.sfreq,
        reject=reject,
        seed=settings.seed,
    )
    seconds = clean.signal.shape[1] / clean.sfreq
    run.quality = {"seconds": float(seconds), "channels": len(clean.raw.ch_names)}
    run.quality |= {f"{step}": f"{row.result}" for step, row in clean.qc.iterrows() if step != "channels"}
    if seconds < settings.min_seconds:
        run.reason = f"{seconds:.0f} clean seconds, fewer than {settings.min_seconds:g}"
    run.series, run.tr = np.ascontiguousarray(clean.signal, np.float32), 1 / clean.sfreq
    level = clean.raw.get_data().std(axis=1) * 1e6
    report.picture(picture, run.name, run.series, run.tr, {"sd (uV)|channel": (level, None)})
    return run


def check_installed() -> None:
    try:
        import mne_bids  # noqa: F401
    except ImportError:
        from helpers.store import INSTALL

        raise BookError(f"EEG in BIDS needs mne-bids, which is not installed: {INSTALL}") from None
