"""What every loader returns: a cohort of region time series, checked at the border.

Axes: ``S`` subjects, ``R`` regions, ``T`` frames. Scans of different length are padded on the right with NaN
up to the longest, so code that forgets ``n_frames`` fails loudly instead of averaging over padding.
"""

from __future__ import annotations

import hashlib
import io as _io
import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import io
from helpers.errors import BookError

YEO7 = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
COLUMNS = ("participant_id", "age", "sex", "site", "group")
CHOICES = {"sex": ("F", "M"), "group": ("control", "patient")}
MIN_FRAMES = 20
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Atlas:
    """Regions of a parcellation.

    Attributes: ``labels`` (R,) str; ``networks`` (R,) str, "" where unknown; ``coords`` (R, 3) float32, mm in
    MNI space, NaN where unknown.
    """

    name: str
    labels: np.ndarray
    networks: np.ndarray
    coords: np.ndarray

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels, dtype=str)
        networks = np.asarray(self.networks, dtype=str)
        coords = np.asarray(self.coords, dtype=np.float32)
        if labels.ndim != 1 or networks.shape != labels.shape or coords.shape != (len(labels), 3):
            raise BookError(
                f"atlas {self.name}: labels {labels.shape}, networks {networks.shape} and coords"
                f" {coords.shape} do not fit together: give (R,), (R,) and (R, 3)"
            )
        for name, value in (("labels", labels), ("networks", networks), ("coords", coords)):
            object.__setattr__(self, name, value)

    @classmethod
    def unnamed(cls, n_regions: int, name: str = "unnamed") -> Atlas:
        """Atlas of which nothing is known but the number of regions."""
        labels = [f"region_{k}" for k in range(1, n_regions + 1)]
        return cls(name, np.array(labels), np.full(n_regions, ""), np.full((n_regions, 3), np.nan))

    @property
    def n_regions(self) -> int:
        return len(self.labels)

    @property
    def has_coords(self) -> bool:
        return bool(np.isfinite(self.coords).all())

    @property
    def has_networks(self) -> bool:
        return bool((self.networks != "").all())

    @property
    def network_names(self) -> tuple[str, ...]:
        """Names of the networks, in Yeo-7 order where they are those, else in order of appearance."""
        present = list(dict.fromkeys(n for n in self.networks.tolist() if n))
        known = [n for n in YEO7 if n in present]
        return tuple(known + [n for n in present if n not in YEO7])

    def __repr__(self) -> str:
        return f"Atlas({self.name}, {self.n_regions} regions, {len(self.network_names)} networks)"


@dataclass(frozen=True)
class Provenance:
    """Where data come from. ``sha256`` maps file names to hashes; it is empty for simulated data."""

    name: str
    source: str
    licence: str
    citation: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""


def _no_repairs() -> pd.DataFrame:
    return pd.DataFrame({c: pd.Series(dtype="str") for c in ("participant_id", "region", "what")})


def _few(items: Sequence[str], n: int = 3) -> str:
    """The first few of many, for a message."""
    more = f" and {len(items) - n} more" if len(items) > n else ""
    return ", ".join(items[:n]) + more


@dataclass(frozen=True, eq=False)
class Cohort:
    """Region time series of many people and what is known about them.

    Attributes ---------- bold : (S, R, T_max) float32, arbitrary units; padded on the right with NaN.
    n_frames : (S,) int, frames that are data. tr : (S,) float, repetition time in seconds. participants : one
    row a subject, BIDS names: participant_id, age (years), sex (F, M), site, group (control, patient), ...
    atlas : the R regions. provenance : where it all comes from. repairs : one row a repair: participant_id,
    region, what.

    Build one with :meth:`validate`, which checks everything; the constructor itself only fits shapes
    together.
    """

    bold: np.ndarray
    n_frames: np.ndarray
    tr: np.ndarray
    participants: pd.DataFrame
    atlas: Atlas
    provenance: Provenance
    repairs: pd.DataFrame = field(default_factory=_no_repairs)

    def __post_init__(self) -> None:
        S = len(self.bold)
        object.__setattr__(self, "n_frames", np.broadcast_to(np.asarray(self.n_frames, dtype=int), S).copy())
        object.__setattr__(self, "tr", np.broadcast_to(np.asarray(self.tr, dtype=float), S).copy())

    # -- looking ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.bold)

    @property
    def n_regions(self) -> int:
        return self.bold.shape[1]

    @property
    def ids(self) -> np.ndarray:
        """Participant ids, (S,) str."""
        return self.participants["participant_id"].to_numpy(str)

    @property
    def hash(self) -> str:
        """Identity of the data: 12 hex digits of the sha256 over shape, series, lengths, TRs and ids."""
        digest = hashlib.sha256(repr(self.bold.shape).encode())
        for part in (self.bold, self.n_frames.astype(np.int64), self.tr.astype(np.float64)):
            digest.update(np.ascontiguousarray(part).data)
        digest.update("\n".join(self.ids.tolist()).encode())
        return digest.hexdigest()[:12]

    def series(self, s: int) -> np.ndarray:
        """Series of subject number ``s`` without padding, (R, n_frames[s]); a view."""
        return self.bold[s, :, : self.n_frames[s]]

    def select(self, index) -> Cohort:
        """The cohort of some subjects only: integers in any order, a boolean mask of length S, or a slice."""
        try:
            index = np.arange(len(self))[index]
        except IndexError as error:
            raise BookError(f"select: {error} ({len(self)} subjects)") from error
        if index.ndim != 1 or len(index) == 0:
            raise BookError(
                f"select: {index.size} of {len(self)} subjects picked: give a list, a mask or a slice"
            )
        if len(np.unique(index)) < len(index):
            raise BookError("select: the index names a subject twice; subjects must be distinct")
        longest = int(self.n_frames[index].max())
        participants = self.participants.iloc[index].reset_index(drop=True)
        kept = self.repairs["participant_id"].isin(participants["participant_id"])
        return Cohort(
            bold=self.bold[index, :, :longest],
            n_frames=self.n_frames[index],
            tr=self.tr[index],
            participants=participants,
            atlas=self.atlas,
            provenance=self.provenance,
            repairs=self.repairs[kept].reset_index(drop=True),
        )

    def summary(self) -> pd.DataFrame:
        """One row a site: people, patients, women, age, TR, frames."""
        table = self.participants.assign(n_frames=self.n_frames, tr=self.tr)
        rows = {}
        for site, part in table.groupby("site", sort=True):
            low, high = part["n_frames"].min(), part["n_frames"].max()
            rows[site] = {
                "subjects": len(part),
                "patients": int((part["group"] == "patient").sum()),
                "women": int((part["sex"] == "F").sum()),
                "age": f"{part['age'].mean():.1f} ({part['age'].min():.0f}-{part['age'].max():.0f})",
                "TR (s)": ", ".join(f"{tr:g}" for tr in sorted(part["tr"].unique())),
                "frames": f"{low}" if low == high else f"{low}-{high}",
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("site")

    def __repr__(self) -> str:
        low, high = int(self.n_frames.min()), int(self.n_frames.max())
        frames = f"{low}" if low == high else f"{low}-{high}"
        return (
            f"Cohort({self.provenance.name}: {len(self)} subjects, {self.n_regions} regions"
            f" ({self.atlas.name}), {frames} frames, {self.participants['site'].nunique()} sites,"
            f" {len(self.repairs)} repairs, {self.hash})"
        )

    # -- the border ------------------------------------------------------------------------------------

    @classmethod
    def validate(
        cls,
        *,
        bold: np.ndarray | Sequence[np.ndarray],
        participants: pd.DataFrame,
        tr: float | Sequence[float] | np.ndarray,
        provenance: Provenance,
        atlas: Atlas | None = None,
        n_frames: Sequence[int] | np.ndarray | None = None,
        on_constant: str = "raise",
        min_frames: int = MIN_FRAMES,
    ) -> Cohort:
        """Check everything that later code takes for granted and build a cohort.

        ``bold`` is one array (S, R, T), padded or not, or a list of arrays (R, T_s). With
        ``on_constant="zero"`` a region that does not vary over time (outside the field of view, most often)
        is set to zero and listed in ``repairs``; its correlations are then 0. With ``"raise"`` it is an
        error. NaN and infinite values within a scan are errors always.

        Errors: :class:`BookError`, naming the first few subjects and regions.
        """
        if on_constant not in ("raise", "zero"):
            raise BookError(f"on_constant is {on_constant!r}: choose 'raise' or 'zero'")
        series = _series(bold, n_frames)
        S, R = len(series), series[0].shape[0]
        people = _participants(participants, S)
        ids = people["participant_id"].tolist()
        atlas = Atlas.unnamed(R) if atlas is None else atlas
        for s, x in enumerate(series):
            if x.shape[0] != R:
                raise BookError(
                    f"subject {ids[s]} has {x.shape[0]} regions, {ids[0]} has {R}: all must use one atlas"
                )
        if atlas.n_regions != R:
            raise BookError(
                f"atlas {atlas.name} has {atlas.n_regions} regions, the series {R}: axes are (region, time)"
            )
        short = [f"{ids[s]} ({x.shape[1]})" for s, x in enumerate(series) if x.shape[1] < min_frames]
        if short:
            raise BookError(f"too few frames, below {min_frames}, in {_few(short)}: leave these subjects out")
        trs = _tr(tr, ids)
        bad = _where(series, ids, atlas, lambda x: ~np.isfinite(x).all(axis=1))
        if bad:
            raise BookError(
                f"NaN or infinite values in {_few(bad)}: interpolate them or leave these subjects out"
            )
        flat = [np.flatnonzero(np.ptp(x, axis=1) == 0) for x in series]
        if on_constant == "raise" and any(len(f) for f in flat):
            bad = [f"{ids[s]} region {atlas.labels[r]}" for s, f in enumerate(flat) for r in f]
            raise BookError(f"constant over time: {_few(bad)}: leave them out, or pass on_constant='zero'")
        lengths = np.array([x.shape[1] for x in series])
        padded = np.full((S, R, lengths.max()), np.nan, dtype=np.float32)
        for s, x in enumerate(series):
            with np.errstate(over="ignore"):  # told below
                padded[s, :, : lengths[s]] = x
            padded[s, flat[s], : lengths[s]] = 0.0
        overflow = _where(
            [padded[s, :, :t] for s, t in enumerate(lengths)],
            ids,
            atlas,
            lambda x: ~np.isfinite(x).all(axis=1),
        )
        if overflow:
            raise BookError(f"values too large for float32 in {_few(overflow)}: rescale the series")
        repairs = [
            {
                "participant_id": ids[s],
                "region": str(atlas.labels[r]),
                "what": "constant over time, set to zero",
            }
            for s, f in enumerate(flat)
            for r in f
        ]
        return cls(
            bold=padded,
            n_frames=lengths,
            tr=trs,
            participants=people,
            atlas=atlas,
            provenance=provenance,
            repairs=pd.DataFrame(repairs) if repairs else _no_repairs(),
        )

    # -- on disk ---------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the cohort as a new folder: bold.npz, three tables, and provenance.json with their hashes.

        The folder appears whole or not at all. A folder that exists already is refused.
        """
        folder = Path(folder)
        if folder.exists():
            raise BookError(f"{folder} exists already: save the cohort under another name")
        scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            scratch.mkdir(parents=True)
            arrays = _io.BytesIO()
            np.savez(arrays, bold=self.bold, n_frames=self.n_frames, tr=self.tr)
            coords = pd.DataFrame(self.atlas.coords, columns=["x", "y", "z"])
            regions = pd.DataFrame({"label": self.atlas.labels, "network": self.atlas.networks}).join(coords)
            io.atomic_write(scratch / "bold.npz", arrays.getvalue())
            for name, table in (
                ("participants", self.participants),
                ("atlas", regions),
                ("repairs", self.repairs),
            ):
                io.atomic_write(scratch / f"{name}.tsv", table.to_csv(sep="\t", index=False, na_rep="n/a"))
            about = {
                "format": FORMAT,
                "hash": self.hash,
                "atlas": self.atlas.name,
                "provenance": asdict(self.provenance),
                "files": {p.name: io.sha256(p) for p in sorted(scratch.iterdir())},
            }
            io.write_json(scratch / "provenance.json", about)
            os.rename(scratch, folder)
        except OSError as error:
            raise BookError(f"cannot write the cohort to {folder}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return folder

    @classmethod
    def open(cls, folder: str | os.PathLike) -> Cohort:
        """Read a folder written by :meth:`save`; a missing or changed file is an error, nothing is used."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "provenance.json").read_text())
            hashes, provenance, version = about["files"], Provenance(**about["provenance"]), about["format"]
        except OSError as error:
            raise BookError(
                f"{folder} is not a cohort folder: provenance.json: {error.strerror or error}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise BookError(f"{folder / 'provenance.json'} is damaged: save the cohort again") from error
        if version != FORMAT:
            raise BookError(f"{folder} has format {version}, this book reads {FORMAT}: save the cohort again")
        for name in ("bold.npz", "participants.tsv", "atlas.tsv", "repairs.tsv"):
            path = folder / name
            if not path.is_file():
                raise BookError(f"{path} is missing: save the cohort again")
            if io.sha256(path) != hashes.get(name):
                raise BookError(f"{path} has changed since it was saved (checksum): save the cohort again")
        try:
            with np.load(folder / "bold.npz", allow_pickle=False) as archive:
                bold, n_frames, tr = archive["bold"], archive["n_frames"], archive["tr"]
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise BookError(
                f"{folder / 'bold.npz'} cannot be read ({error}): save the cohort again"
            ) from error
        regions = _read_tsv(folder / "atlas.tsv")
        coords = regions[["x", "y", "z"]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
        atlas = Atlas(
            about["atlas"], regions["label"].to_numpy(str), regions["network"].to_numpy(str), coords
        )
        cohort = cls.validate(
            bold=bold,
            n_frames=n_frames,
            tr=tr,
            participants=_numbers(_read_tsv(folder / "participants.tsv")),
            atlas=atlas,
            provenance=provenance,
            on_constant="zero",
        )
        cohort = cls(**{**_fields(cohort), "repairs": _read_tsv(folder / "repairs.tsv")})
        if cohort.hash != about["hash"]:
            raise BookError(f"{folder}: the series do not match provenance.json: save the cohort again")
        return cohort


def _fields(cohort: Cohort) -> dict:
    names = ("bold", "n_frames", "tr", "participants", "atlas", "provenance", "repairs")
    return {name: getattr(cohort, name) for name in names}


def _read_tsv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Columns that hold numbers only (or n/a) as numbers; names and categories stay text."""
    for name in table.columns.difference(["participant_id", "sex", "site", "group"]):
        numbers = pd.to_numeric(table[name].replace("n/a", "nan"), errors="coerce")
        if (numbers.notna() | table[name].isin(["n/a", "nan", ""])).all():
            table[name] = numbers
    return table


def _series(bold, n_frames) -> list[np.ndarray]:
    """(S, R, T) array or list of (R, T_s) as a list of real-valued (R, T_s) arrays."""
    try:
        arrays = [np.asarray(x) for x in bold]
    except (TypeError, ValueError) as error:
        raise BookError(
            "bold must be an array (subjects, regions, frames) or a list of arrays (regions, frames)"
        ) from error
    if not arrays:
        raise BookError("bold holds no subject")
    for s, x in enumerate(arrays):
        if x.ndim != 2:
            raise BookError(f"bold of subject number {s} has shape {x.shape}: expected (regions, frames)")
        if x.dtype.kind not in "fiu":
            raise BookError(f"bold of subject number {s} has dtype {x.dtype}: expected real numbers")
    if n_frames is None:
        return arrays
    lengths = np.asarray(n_frames)
    if lengths.shape != (len(arrays),) or lengths.dtype.kind not in "iu":
        raise BookError(f"n_frames must be {len(arrays)} whole numbers, one a subject")
    wrong = [s for s, (x, t) in enumerate(zip(arrays, lengths, strict=True)) if not 0 < t <= x.shape[1]]
    if wrong:
        s = wrong[0]
        raise BookError(
            f"n_frames of subject number {s} is {lengths[s]}, its series has {arrays[s].shape[1]} frames"
        )
    return [x[:, :t] for x, t in zip(arrays, lengths, strict=True)]


def _participants(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """A clean copy of the participants table, index 0..S-1."""
    if not isinstance(table, pd.DataFrame):
        raise BookError(f"participants must be a pandas DataFrame, not {type(table).__name__}")
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        raise BookError(f"participants lacks the column {_few(missing)}: needed are {', '.join(COLUMNS)}")
    if len(table) != n:
        raise BookError(f"participants has {len(table)} rows, bold has {n} subjects")
    table = table.reset_index(drop=True).copy()
    for column in ("participant_id", "site"):
        empty = table[column].isna() | (table[column].astype("str").str.strip() == "")
        if empty.any():
            raise BookError(f"participants: {column} is empty in row {empty.argmax()}")
        table[column] = table[column].astype("str")
    ids = table["participant_id"]
    if ids.duplicated().any():
        raise BookError(
            f"participants: {_few(ids[ids.duplicated()].unique().tolist())} appears twice: one row a subject"
        )
    for column, choices in CHOICES.items():
        wrong = table[~table[column].isin(choices)]
        if len(wrong):
            found = [f"{i} ({v!r})" for i, v in zip(wrong["participant_id"], wrong[column], strict=True)]
            raise BookError(f"participants: {column} must be one of {choices}: {_few(found)}")
        table[column] = table[column].astype("str")
    ages = pd.to_numeric(table["age"], errors="coerce")
    wrong = ids[~(np.isfinite(ages) & (ages > 0))].tolist()
    if wrong:
        raise BookError(f"participants: age must be a positive number of years: {_few(wrong)}")
    table["age"] = ages.astype(float)
    return table


def _tr(tr, ids: list[str]) -> np.ndarray:
    """Repetition times, (S,) float."""
    try:
        trs = np.asarray(tr, dtype=float)
        trs = np.broadcast_to(trs, len(ids)).copy() if trs.ndim == 0 else trs.copy()
    except (TypeError, ValueError) as error:
        raise BookError(f"tr is {tr!r}: expected seconds") from error
    if trs.shape != (len(ids),):
        raise BookError(f"tr has shape {trs.shape}: give one number, or one a subject ({len(ids)})")
    wrong = [f"{i} ({t:g})" for i, t in zip(ids, trs, strict=True) if not (np.isfinite(t) and t > 0)]
    if wrong:
        raise BookError(f"tr must be positive, in seconds: {_few(wrong)}")
    return trs


def _where(series: list[np.ndarray], ids: list[str], atlas: Atlas, test) -> list[str]:
    """'subject region label' wherever ``test`` of a subject's series is true."""
    return [
        f"{ids[s]} region {atlas.labels[r]}" for s, x in enumerate(series) for r in np.flatnonzero(test(x))
    ]
