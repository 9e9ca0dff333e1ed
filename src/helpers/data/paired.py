"""People with both fMRI and EEG, in the same regions: what the chapters on two modalities start from.

Axes: ``S`` subjects, runs, ``R`` regions, ``T`` fMRI frames or ``N`` EEG samples. Shorter runs are padded on
the right with NaN; a run of length 0 is missing. EEG has been brought to the regions (see
:mod:`helpers.eeg`), because both modalities must speak of the same places.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import io
from helpers.data.cohort import MIN_FRAMES, Atlas, Provenance, _few, _numbers, _participants, _read_tsv
from helpers.errors import BookError

RUNS = ("eyes open", "eyes closed")
MIN_SECONDS = 2.0  # shortest EEG run
RATES = (100.0, 5000.0)  # Hz, sampling rates that make sense for EEG
SLOWEST_TR = 20.0  # seconds
FORMAT = 1
FILES = ("bold.npy", "eeg.npy", "lengths.npz", "participants.tsv", "atlas.tsv")


@dataclass(frozen=True, eq=False)
class PairedCohort:
    """Runs of fMRI and EEG of many people, in one set of regions.

    Attributes:
        bold: (S, fMRI runs, R, T_max) float32, arbitrary units, padded with NaN.
        eeg: (S, EEG runs, R, N_max) float16 or float32, padded with NaN; it may lie on disk (a memory map).
        n_frames, n_samples: (S, runs) int, lengths; 0 where the run is missing.
        tr: (S,) float, seconds. sfreq: Hz, one for all.
        participants: one row a subject, as in :class:`~helpers.data.cohort.Cohort`.
        atlas, provenance: the R regions; where it all comes from.
        fmri_runs, eeg_runs: names of the runs.

    Build one with :meth:`validate`, which checks everything; the constructor only fits shapes together.
    """

    bold: np.ndarray
    eeg: np.ndarray
    n_frames: np.ndarray
    n_samples: np.ndarray
    tr: np.ndarray
    sfreq: float
    participants: pd.DataFrame
    atlas: Atlas
    provenance: Provenance
    fmri_runs: tuple[str, ...] = RUNS
    eeg_runs: tuple[str, ...] = RUNS

    def __post_init__(self) -> None:
        S = len(self.bold)
        for name, runs in (("n_frames", self.fmri_runs), ("n_samples", self.eeg_runs)):
            lengths = np.broadcast_to(np.asarray(getattr(self, name), dtype=int), (S, len(runs))).copy()
            object.__setattr__(self, name, lengths)
        object.__setattr__(self, "tr", np.broadcast_to(np.asarray(self.tr, dtype=float), S).copy())

    # -- looking ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.bold)

    @property
    def n_regions(self) -> int:
        return self.bold.shape[2]

    @property
    def ids(self) -> np.ndarray:
        """Participant ids, (S,) str."""
        return self.participants["participant_id"].to_numpy(str)

    @property
    def labels(self) -> np.ndarray:
        """1 for patients, 0 for controls, (S,) int."""
        return (self.participants["group"] == "patient").to_numpy(int)

    @cached_property
    def hash(self) -> str:
        """Identity of the data: 12 hex digits of the sha256 over shapes, series, lengths, rates and ids."""
        digest = hashlib.sha256(repr((self.bold.shape, self.eeg.shape, self.sfreq)).encode())
        for part in (self.bold, self.eeg):
            for subject in part:
                digest.update(np.ascontiguousarray(subject).data)
        for part in (self.n_frames, self.n_samples, self.tr):
            digest.update(np.ascontiguousarray(part).data)
        digest.update("\n".join(self.ids.tolist()).encode())
        return digest.hexdigest()[:12]

    def fmri(self, s: int, run: int) -> np.ndarray:
        """BOLD of one run without padding, (R, T) float32."""
        return self.bold[s, run, :, : self.n_frames[s, run]]

    def signal(self, s: int, run: int) -> np.ndarray:
        """EEG of one run without padding, (R, N) float32."""
        return np.asarray(self.eeg[s, run, :, : self.n_samples[s, run]], dtype=np.float32)

    def available(self, modality: str) -> np.ndarray:
        """Who has at least one run of ``"fmri"`` or ``"eeg"``, (S,) bool."""
        lengths = {"fmri": self.n_frames, "eeg": self.n_samples}
        if modality not in lengths:
            raise BookError(f"modality is {modality!r}: choose 'fmri' or 'eeg'")
        return (lengths[modality] > 0).any(axis=1)

    def pairs(self, index: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Cross-matched runs, (P, 3) int: subject, fMRI run, EEG run; every combination that exists.

        ``index`` limits it to some subjects (positions). Two pairs with the same first column are one person:
        they must land in the same fold, and never be each other's negatives.
        """
        people = range(len(self)) if index is None else np.arange(len(self))[np.asarray(index)]
        rows = [
            (s, f, e)
            for s in people
            for f in np.flatnonzero(self.n_frames[s])
            for e in np.flatnonzero(self.n_samples[s])
        ]
        return np.array(rows, dtype=int).reshape(-1, 3)

    def select(self, index) -> PairedCohort:
        """The cohort of some subjects: integers in any order, a boolean mask, or a slice (a view then)."""
        try:
            rows = np.arange(len(self))[index]
        except IndexError as error:
            raise BookError(f"select: {error} ({len(self)} subjects)") from error
        if rows.ndim != 1 or len(rows) == 0:
            raise BookError(
                f"select: {rows.size} of {len(self)} subjects picked: give a list, a mask or a slice"
            )
        if len(np.unique(rows)) < len(rows):
            raise BookError("select: the index names a subject twice; subjects must be distinct")
        index = index if isinstance(index, slice) else rows
        participants = self.participants.iloc[rows].reset_index(drop=True)
        return replace(
            self,
            bold=self.bold[index],
            eeg=self.eeg[index],
            n_frames=self.n_frames[rows],
            n_samples=self.n_samples[rows],
            tr=self.tr[rows],
            participants=participants,
        )

    def summary(self) -> pd.DataFrame:
        """One row a site: people, patients, women, age, and who has which modality."""
        fmri, eeg = self.available("fmri"), self.available("eeg")
        rows = {}
        for site, part in self.participants.groupby("site", sort=True):
            at = part.index
            rows[site] = {
                "subjects": len(part),
                "patients": int((part["group"] == "patient").sum()),
                "women": int((part["sex"] == "F").sum()),
                "age": f"{part['age'].mean():.1f} ({part['age'].min():.0f}-{part['age'].max():.0f})",
                "with fMRI": int(fmri[at].sum()),
                "with EEG": int(eeg[at].sum()),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("site")

    def __repr__(self) -> str:
        seconds = self.n_samples.max() / self.sfreq
        return (
            f"PairedCohort({self.provenance.name}: {len(self)} subjects, {self.n_regions} regions"
            f" ({self.atlas.name}); fMRI {len(self.fmri_runs)} runs of {self.n_frames.max()} frames;"
            f" EEG {len(self.eeg_runs)} runs of {seconds:g} s at {self.sfreq:g} Hz)"
        )

    # -- the border ------------------------------------------------------------------------------------

    @classmethod
    def validate(
        cls,
        *,
        bold,
        eeg,
        participants: pd.DataFrame,
        tr: float | Sequence[float] | np.ndarray,
        sfreq: float | Sequence[float] | np.ndarray,
        provenance: Provenance,
        atlas: Atlas | None = None,
        fmri_runs: tuple[str, ...] = RUNS,
        eeg_runs: tuple[str, ...] = RUNS,
        paired: bool = True,
    ) -> PairedCohort:
        """Check everything that later code takes for granted and build a cohort.

        ``bold`` and ``eeg`` are each an array (S, runs, R, time), or a list with a subject's list of runs
        (R, time), or a mapping from participant ids to such lists; ``None`` in place of a run, or of all of a
        subject's runs, means missing. With ``paired`` everybody must have at least one run of both
        modalities.

        Errors: :class:`BookError`, naming the first few subjects and regions.
        """
        ids = participants["participant_id"].astype("str").tolist() if _has_ids(participants) else None
        bold = _nested("bold", bold, ids, fmri_runs)
        eeg = _nested("eeg", eeg, ids, eeg_runs)
        people = _participants(participants, len(bold))
        ids = people["participant_id"].tolist()
        if len(eeg) != len(bold):
            raise BookError(
                f"unpaired: bold has {len(bold)} subjects, eeg has {len(eeg)}: pass None for a missing run"
            )
        for modality, runs in (("fMRI", bold), ("EEG", eeg)):
            missing = [i for i, r in zip(ids, runs, strict=True) if all(x is None for x in r)]
            if missing and paired:
                raise BookError(
                    f"unpaired: {_few(missing)} without {modality}: leave them out, or pass paired=False"
                )
        R = next((x.shape[0] for runs in (*bold, *eeg) for x in runs if x is not None), 0)
        atlas = Atlas.unnamed(R) if atlas is None else atlas
        trs, rate = _trs(tr, ids), _rate(sfreq, ids)
        shortest = {"fMRI": MIN_FRAMES, "EEG": int(np.ceil(MIN_SECONDS * rate))}
        for modality, data in (("fMRI", bold), ("EEG", eeg)):
            for i, runs in zip(ids, data, strict=True):
                for k, x in enumerate(runs):
                    if x is not None:
                        _check_run(x, f"{modality} of {i}, run {k + 1}", atlas, shortest[modality])
        padded_bold, n_frames = _pad(bold, R, np.float32)
        half = all(x is None or x.dtype == np.float16 for runs in eeg for x in runs)
        padded_eeg, n_samples = _pad(eeg, R, np.float16 if half else np.float32)
        return cls(
            bold=padded_bold,
            eeg=padded_eeg,
            n_frames=n_frames,
            n_samples=n_samples,
            tr=trs,
            sfreq=rate,
            participants=people,
            atlas=atlas,
            provenance=provenance,
            fmri_runs=tuple(fmri_runs),
            eeg_runs=tuple(eeg_runs),
        )

    # -- on disk ---------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the cohort as a new folder: two arrays, tables, and provenance.json with their hashes.

        The folder appears whole or not at all. A folder that exists already is refused.
        """
        folder = Path(folder)
        if folder.exists():
            raise BookError(f"{folder} exists already: save the cohort under another name")
        scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            scratch.mkdir(parents=True)
            np.save(scratch / "eeg.npy", self.eeg)
            self.finish(scratch)
            os.rename(scratch, folder)
        except OSError as error:
            raise BookError(f"cannot write the cohort to {folder}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return folder

    def finish(self, folder: Path) -> None:
        """Write everything but ``eeg.npy``, which is in ``folder`` already, and the hashes of all files."""
        np.save(folder / "bold.npy", self.bold)
        np.savez(folder / "lengths.npz", n_frames=self.n_frames, n_samples=self.n_samples, tr=self.tr)
        coords = pd.DataFrame(self.atlas.coords, columns=["x", "y", "z"])
        regions = pd.DataFrame({"label": self.atlas.labels, "network": self.atlas.networks}).join(coords)
        for name, table in (("participants", self.participants), ("atlas", regions)):
            io.atomic_write(folder / f"{name}.tsv", table.to_csv(sep="\t", index=False, na_rep="n/a"))
        about = {
            "format": FORMAT,
            "atlas": self.atlas.name,
            "sfreq": self.sfreq,
            "fmri_runs": list(self.fmri_runs),
            "eeg_runs": list(self.eeg_runs),
            "provenance": asdict(self.provenance),
            "files": {name: io.sha256(folder / name) for name in FILES},
        }
        io.write_json(folder / "provenance.json", about)

    @classmethod
    def open(cls, folder: str | os.PathLike) -> PairedCohort:
        """Read a folder written by :meth:`save`; a missing or changed file is an error, nothing is used.

        EEG stays on disk and is read where it is needed.
        """
        folder = Path(folder)
        about_path = folder / "provenance.json"
        try:
            about = json.loads(about_path.read_text(encoding="utf-8"))
            hashes, provenance = about["files"], Provenance(**about["provenance"])
            version, rate, atlas_name = about["format"], float(about["sfreq"]), about["atlas"]
            runs = {name: tuple(about[name]) for name in ("fmri_runs", "eeg_runs")}
        except OSError as error:
            raise BookError(
                f"{folder} is not a paired cohort: provenance.json: {error.strerror or error}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise BookError(f"{about_path} is damaged: save the cohort again") from error
        if version != FORMAT:
            raise BookError(f"{folder} has format {version}, this book reads {FORMAT}: save the cohort again")
        for name in FILES:
            path = folder / name
            if not path.is_file():
                raise BookError(f"{path} is missing: save the cohort again")
            if io.sha256(path) != hashes.get(name):
                raise BookError(f"{path} has changed since it was saved (checksum): save the cohort again")
        with np.load(folder / "lengths.npz", allow_pickle=False) as archive:
            lengths = {name: archive[name] for name in archive.files}
        regions = _read_tsv(folder / "atlas.tsv")
        coords = regions[["x", "y", "z"]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
        return cls(
            bold=np.load(folder / "bold.npy", allow_pickle=False),
            eeg=np.load(folder / "eeg.npy", allow_pickle=False, mmap_mode="r"),
            sfreq=rate,
            participants=_participants(_numbers(_read_tsv(folder / "participants.tsv")), len(lengths["tr"])),
            atlas=Atlas(atlas_name, regions["label"].to_numpy(str), regions["network"].to_numpy(str), coords),
            provenance=provenance,
            **lengths,
            **runs,
        )


def _has_ids(table) -> bool:
    return isinstance(table, pd.DataFrame) and "participant_id" in table.columns


def _nested(name: str, data, ids: list[str] | None, runs: Sequence[str]) -> list[list[np.ndarray | None]]:
    """``data`` as a list over subjects of lists over runs of arrays (R, time) or None."""
    if isinstance(data, Mapping):
        keys = [str(k) for k in data]
        strangers = sorted(set(keys) - set(ids or []))
        if strangers:
            raise BookError(f"unpaired: {name} of {_few(strangers)}, who are not in the participants table")
        by_id = dict(zip(keys, data.values(), strict=True))
        data = [by_id.get(i) for i in ids or []]
    try:
        people = list(data)
    except TypeError as error:
        raise BookError(f"{name} must be an array (subjects, runs, regions, time) or lists of it") from error
    nested = []
    for s, own in enumerate(people):
        own = [None] * len(runs) if own is None else list(own)
        if len(own) != len(runs):
            raise BookError(
                f"{name} of subject number {s} has {len(own)} runs, expected {len(runs)} ({', '.join(runs)}):"
                " pass None for a missing one"
            )
        nested.append([None if x is None else np.asarray(x) for x in own])
        for x in nested[-1]:
            if x is not None and (x.ndim != 2 or x.dtype.kind not in "fiu"):
                raise BookError(
                    f"{name} of subject number {s}: a run is {x.dtype} of shape {x.shape}, expected real"
                    " numbers (regions, time)"
                )
    if not nested:
        raise BookError(f"{name} holds no subject")
    return nested


def _check_run(x: np.ndarray, where: str, atlas: Atlas, shortest: int) -> None:
    """One run (R, time): as many regions as the atlas, long enough, finite, nothing flat."""
    if x.shape[0] != atlas.n_regions:
        raise BookError(
            f"{where}: {x.shape[0]} regions where {atlas.n_regions} are expected ({atlas.name}): fMRI and EEG"
            " of all subjects must use one atlas, axes (region, time)"
        )
    if x.shape[1] < shortest:
        raise BookError(f"{where}: {x.shape[1]} time points, at least {shortest} are needed: leave it out")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        names = _few([str(n) for n in atlas.labels[bad]])
        raise BookError(f"{where}: NaN or infinite values in {names}: interpolate them or leave the run out")
    flat = np.flatnonzero(np.ptp(x, axis=1) == 0)
    if len(flat):
        names = _few([str(n) for n in atlas.labels[flat]])
        raise BookError(f"{where}: flat (constant over time) in {names}: leave the run out")


def _trs(tr, ids: list[str]) -> np.ndarray:
    """Repetition times, (S,) seconds."""
    try:
        trs = np.broadcast_to(np.asarray(tr, dtype=float), len(ids)).copy()
    except (TypeError, ValueError) as error:
        raise BookError(f"tr is {tr!r}: expected seconds, one number or one a subject") from error
    wrong = [f"{i} ({t:g})" for i, t in zip(ids, trs, strict=True) if not 0 < t <= SLOWEST_TR]
    if wrong:
        raise BookError(f"tr must be seconds in (0, {SLOWEST_TR:g}]: {_few(wrong)}")
    return trs


def _rate(sfreq, ids: list[str]) -> float:
    """The one EEG sampling rate."""
    try:
        rates = np.broadcast_to(np.asarray(sfreq, dtype=float), len(ids))
    except (TypeError, ValueError) as error:
        raise BookError(f"sfreq is {sfreq!r}: expected Hz, one number or one a subject") from error
    low, high = RATES
    wrong = [f"{i} ({f:g} Hz)" for i, f in zip(ids, rates, strict=True) if not low <= f <= high]
    if wrong:
        raise BookError(f"wrong sampling rate, expected {low:g} to {high:g} Hz: {_few(wrong)}")
    other = [f"{i} ({f:g} Hz)" for i, f in zip(ids, rates, strict=True) if f != rates[0]]
    if other:
        raise BookError(f"wrong sampling rate: {ids[0]} has {rates[0]:g} Hz, but {_few(other)}: resample")
    return float(rates[0])


def _pad(data: list[list[np.ndarray | None]], R: int, dtype) -> tuple[np.ndarray, np.ndarray]:
    """(S, runs, R, longest) filled with NaN on the right, and the lengths (S, runs)."""
    lengths = np.array([[0 if x is None else x.shape[1] for x in runs] for runs in data])
    padded = np.full((*lengths.shape, R, lengths.max()), np.nan, dtype=dtype)
    for s, runs in enumerate(data):
        for k, x in enumerate(runs):
            if x is not None:
                padded[s, k, :, : x.shape[1]] = x
    return padded, lengths
