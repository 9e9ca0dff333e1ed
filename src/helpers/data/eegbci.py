"""EEG with eyes open and closed of up to 109 people: EEGMMIDB of PhysioNet, as MNE knows it (``eegbci``).

64 channels at 160 Hz, about one minute a run: run 1 with eyes open, run 2 with eyes closed, nothing else to
do. Addresses and checksums are those of ``mne.datasets.eegbci``; the files go below the book's data folder in
MNE's own layout, 1.2 MB a run. There is no fMRI, no age, sex or diagnosis: it serves to test on real EEG what
a model of EEG learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

import mne
import numpy as np
from mne.datasets.eegbci import eegbci as upstream

from helpers.data import registry
from helpers.data.cohort import Provenance
from helpers.data.paired import RUNS
from helpers.eeg import Parcels, known_names, preprocess
from helpers.errors import BookError

URL = upstream.EEGMI_URL.rstrip("/")
LICENCE = "ODC-By 1.0"
SFREQ = 160.0  # Hz
OTHER_RATE = (88, 92, 100)  # recorded at 128 Hz
SUBJECTS = tuple(s for s in range(1, 110) if s not in OTHER_RATE)

provenance = Provenance(
    name="EEGMMIDB, eyes open and closed",
    source=URL,
    licence=LICENCE,
    citation="Schalk et al. 2004, doi:10.1109/TBME.2004.827072; Goldberger et al. 2000 (PhysioNet)",
    notes="runs R01 (eyes open) and R02 (eyes closed)",
)


@dataclass(frozen=True, eq=False)
class Recordings:
    """Two runs of each person: ``raws[s][run]``, eyes open then eyes closed, in volts, channels named 10-05.

    ``ids`` are S001, S002, ...
    """

    ids: tuple[str, ...]
    raws: tuple[tuple[mne.io.BaseRaw, mne.io.BaseRaw], ...]
    provenance: Provenance = provenance

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def hash(self) -> str:
        """Identity of the data: 12 hex digits of the sha256 over ids and samples."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        for runs in self.raws:
            for raw in runs:
                digest.update(np.ascontiguousarray(raw.get_data()).data)
        return digest.hexdigest()[:12]

    def parcels(self, coords: np.ndarray, **options) -> list[list[Parcels]]:
        """Every run through :func:`helpers.eeg.preprocess`, ``[s][run]``; ``options`` are its arguments."""
        return [[preprocess(raw, coords, **options) for raw in runs] for runs in self.raws]


def name(subject: int, run: int) -> str:
    """Name of a file: subject from 1, run 1 (eyes open) or 2 (eyes closed)."""
    return f"S{subject:03d}/S{subject:03d}R{run:02d}.edf"


@lru_cache(maxsize=1)
def checksums() -> dict[str, str]:
    """sha256 of every file, from the table that comes with MNE."""
    lines = (files("mne") / "data" / "eegbci_checksums.txt").read_text().splitlines()
    return dict(line.split()[:2] for line in lines if line.strip())


def fetch(subject: int, run: int) -> Path:
    """Path of one file, downloaded on first use and verified.

    Errors: :class:`MissingData` when it is neither here nor to be downloaded; :class:`BookError` when its
    hash differs.
    """
    file = name(subject, run)
    local = f"MNE-eegbci-data/files/eegmmidb/1.0.0/{file}"
    return registry.fetch(local, f"{URL}/{file}", checksums()[file], LICENCE)


def _read(path: Path, run: int) -> mne.io.BaseRaw:
    """One run, checked: 160 Hz, known channels, annotated with what the eyes did."""
    try:
        raw = mne.io.read_raw_edf(path, preload=True, verbose="error")
    except (OSError, ValueError, KeyError, RuntimeError, IndexError) as error:
        raise BookError(f"{path.name} cannot be read as EDF ({type(error).__name__}): delete it") from error
    if raw.info["sfreq"] != SFREQ:
        raise BookError(
            f"wrong sampling rate: {path.name} has {raw.info['sfreq']:g} Hz, the others {SFREQ:g} Hz:"
            " leave this subject out"
        )
    raw.rename_channels(known_names(raw.ch_names), verbose="error")
    return raw.set_annotations(mne.Annotations(0.0, raw.times[-1], RUNS[run - 1]), verbose="error")


def load(subjects: Iterable[int] = SUBJECTS[:20]) -> Recordings:
    """Both runs of ``subjects`` (numbers from 1 to 109; 88, 92 and 100 have another sampling rate).

    Errors: :class:`MissingData`, :class:`BookError` as :func:`fetch`; :class:`BookError` for numbers that do
    not exist, before anything is downloaded.
    """
    subjects = list(subjects)
    wrong = [s for s in subjects if isinstance(s, bool) or s not in range(1, 110)]
    if wrong or not subjects or len(set(subjects)) < len(subjects):
        raise BookError(f"subjects must be distinct numbers from 1 to 109, got {subjects[:5]}")
    other = [str(s) for s in subjects if s in OTHER_RATE]
    if other:
        raise BookError(f"wrong sampling rate: subjects {', '.join(other)} have 128 Hz: leave them out")
    paths = [[fetch(s, run) for run in (1, 2)] for s in subjects]
    raws = tuple(tuple(_read(path, run) for run, path in enumerate(runs, 1)) for runs in paths)
    return Recordings(tuple(f"S{s:03d}" for s in subjects), raws)
