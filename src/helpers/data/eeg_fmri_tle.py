"""Connectomes of 69 people whose EEG and fMRI were recorded at the same time: controls and epilepsy.

Wirsich et al. 2024, *Network Neuroscience*: 35 controls, 16 people with left and 18 with right temporal lobe
epilepsy. fMRI: correlation between 68 Desikan regions. EEG: imaginary part of the coherence between the same
regions, after source estimation, in five bands. No series are published, so there are no temporal and
frequency domains here. Files of the authors' repository at a fixed commit, MIT licence.

Two recording systems contributed (256 channels and 64 channels), with scans of different length, and the
system can be read off either modality almost without error. Always stratify by it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.data import registry
from helpers.data.cohort import YEO7, Atlas, Provenance
from helpers.errors import BookError

COMMIT = "b36ad3874f16846c3ea771ea59901a7163693191"
URL = f"https://raw.githubusercontent.com/jwirsich/eeg-fmri-tle/{COMMIT}/data"
LICENCE = "MIT"
COORDS, NETWORKS = "desi_coord_68.txt", "aparc_aseg_yeoRS7_68reg_eeg_nosubc_cmfg2dan.mat"
BANDS = ("delta", "theta", "alpha", "beta", "gamma")
SYSTEMS = {"256Ch3T": "256-channel", "64Ch3T": "64-channel"}
DIAGNOSES = {"controls": "control", "ltle": "left TLE", "rtle": "right TLE"}
N_REGIONS = 68
SHA256 = {
    "aparc_aseg_yeoRS7_68reg_eeg_nosubc_cmfg2dan.mat": (
        "42fff5d27156c63bda153195f41cb04b6e9cce0fb4b3430b43b0d82ba15fb0e5"
    ),
    "desi_coord_68.txt": "f894372d82de4bf05f7820407e0f65e0ea3061cd924ba3e5d07d87892966b5f4",
    "eeg-fmri_256Ch3T_controls_connectomes_desikan_scrubbed_truncTo5min.mat": (
        "c941d2ec20a9fd5f1eb3f723b22edb5f5336ffb718a4ad006192eac5e4b23b68"
    ),
    "eeg-fmri_256Ch3T_controls_participants.tsv": (
        "f18f6803db02c1143d6f6805baccdd70a488ea16386e5ba273d73caca7c4d9d1"
    ),
    "eeg-fmri_256Ch3T_ltle_connectomes_desikan_scrubbed_truncTo5min.mat": (
        "cdff5e68b4bf9ce4f02692f115fbed99d2b697a46e770a6a21d746728f68493c"
    ),
    "eeg-fmri_256Ch3T_ltle_participants.tsv": (
        "62c4c2ad1e6189df0338623b823ad18ad011a3791af3b71c538585a87d905976"
    ),
    "eeg-fmri_256Ch3T_rtle_connectomes_desikan_scrubbed_truncTo5min.mat": (
        "0a8494dc77ef7899034c28473c8ee36e725b56070990eaf443a8984e1941448e"
    ),
    "eeg-fmri_256Ch3T_rtle_participants.tsv": (
        "cbb9d4f02f929f0b24681eff023a451b4b42e9f48138538ddd6e3e5e38955ff4"
    ),
    "eeg-fmri_64Ch3T_controls_connectomes_desikan_scrubbed.mat": (
        "fba7a6abd2a8494900129f357a2c32ba0c927160768a6d053dccb6b505ce142b"
    ),
    "eeg-fmri_64Ch3T_controls_participants.tsv": (
        "482ebd290421d8b138ee2f94910b17cd1a04b261be838adaa8b355df9b650669"
    ),
    "eeg-fmri_64Ch3T_ltle_connectomes_desikan_scrubbed.mat": (
        "55a4a9a42680af8e87ac9e552eb62ec4d96f24e3009f0e2215572eb19051a83c"
    ),
    "eeg-fmri_64Ch3T_ltle_participants.tsv": (
        "f00d88560441ce17063000ce4e1640db2b3601a204b339c5e0ae07a5904e36d5"
    ),
    "eeg-fmri_64Ch3T_rtle_connectomes_desikan_scrubbed.mat": (
        "0a982fd57173064203cd75d78907b4db47e3bd36840a6db0104e1749d907b76c"
    ),
    "eeg-fmri_64Ch3T_rtle_participants.tsv": (
        "f17e775f2264632197376116a38187c01cad10af74e5e3af4318f5d149f1bba7"
    ),
}
# Names of the regions: FreeSurfer's Desikan-Killiany order, which the coordinates of the files follow.
GYRI = """bankssts caudalanteriorcingulate caudalmiddlefrontal cuneus entorhinal fusiform inferiorparietal
inferiortemporal isthmuscingulate lateraloccipital lateralorbitofrontal lingual medialorbitofrontal
middletemporal parahippocampal paracentral parsopercularis parsorbitalis parstriangularis pericalcarine
postcentral posteriorcingulate precentral precuneus rostralanteriorcingulate rostralmiddlefrontal
superiorfrontal superiorparietal superiortemporal supramarginal frontalpole temporalpole transversetemporal
insula""".split()

provenance = Provenance(
    name="EEG-fMRI connectomes, temporal lobe epilepsy",
    source=URL,
    licence=LICENCE,
    citation="Wirsich et al. 2024, doi:10.1162/netn_a_00362",
    sha256=SHA256,
    notes="simultaneous recordings; Desikan-68; fMRI correlation, EEG imaginary coherence in five bands",
)


@dataclass(frozen=True, eq=False)
class Connectomes:
    """Connectomes of both modalities of S people.

    ``fmri`` (S, R, R) float32, Fisher z, zero diagonal; ``eeg`` (S, bands, R, R) float32, imaginary coherence
    in (0, 1), zero diagonal; ``participants``: participant_id, age, sex, site (the recording system), group
    (control, patient), diagnosis, frames, mean_fd (mean framewise displacement, mm).
    """

    fmri: np.ndarray
    eeg: np.ndarray
    participants: pd.DataFrame
    atlas: Atlas
    bands: tuple[str, ...] = BANDS
    provenance: Provenance = provenance

    def __len__(self) -> int:
        return len(self.fmri)

    @property
    def ids(self) -> np.ndarray:
        """Participant ids, (S,) str."""
        return self.participants["participant_id"].to_numpy(str)

    @property
    def labels(self) -> np.ndarray:
        """1 for patients, 0 for controls, (S,) int."""
        return (self.participants["group"] == "patient").to_numpy(int)

    @property
    def systems(self) -> np.ndarray:
        """Recording system, (S,) str."""
        return self.participants["site"].to_numpy(str)

    @cached_property
    def hash(self) -> str:
        """Identity of the data: 12 hex digits of the sha256 over both connectomes and the ids."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        for part in (self.fmri, self.eeg):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()[:12]

    def select(self, index) -> Connectomes:
        """Some people: integers, a boolean mask, or a slice."""
        rows = np.arange(len(self))[index]
        if rows.ndim != 1 or len(rows) == 0 or len(np.unique(rows)) < len(rows):
            raise BookError("select: give distinct subjects, at least one")
        return replace(
            self,
            fmri=self.fmri[rows],
            eeg=self.eeg[rows],
            participants=self.participants.iloc[rows].reset_index(drop=True),
        )

    def summary(self) -> pd.DataFrame:
        """One row a recording system: people by diagnosis, women, age, frames."""
        rows = {}
        for system, part in self.participants.groupby("site", sort=True):
            rows[system] = {
                "subjects": len(part),
                **{d: int((part["diagnosis"] == d).sum()) for d in DIAGNOSES.values()},
                "women": int((part["sex"] == "F").sum()),
                "age": f"{part['age'].mean():.1f} ({part['age'].min():.0f}-{part['age'].max():.0f})",
                "frames": f"{part['frames'].min()}-{part['frames'].max()}",
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("recording system")

    def __repr__(self) -> str:
        return (
            f"Connectomes({self.provenance.name}: {len(self)} subjects, {self.atlas.n_regions} regions,"
            f" {len(self.bands)} EEG bands, {self.hash})"
        )


def _names(system: str, group: str) -> tuple[str, str]:
    """The connectomes file and the participants file of one part of the data."""
    cut = "_truncTo5min" if system == "256Ch3T" else ""
    stem = f"eeg-fmri_{system}_{group}"
    return f"{stem}_connectomes_desikan_scrubbed{cut}.mat", f"{stem}_participants.tsv"


def fetch() -> dict[str, Path]:
    """Paths of all files, downloaded on first use (8 MB) and verified.

    Errors: :class:`MissingData` when a file is neither here nor to be downloaded; :class:`BookError` when its
    hash differs.
    """
    return {n: registry.fetch(f"eeg_fmri_tle/{n}", f"{URL}/{n}", sha, LICENCE) for n, sha in SHA256.items()}


def _mat(path: Path) -> dict:
    from scipy.io import loadmat

    try:
        return loadmat(path, struct_as_record=False, squeeze_me=True)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise BookError(f"{path.name} cannot be read as a MATLAB file ({error}): delete it") from error


def matrix(edges: np.ndarray, n_regions: int = N_REGIONS) -> np.ndarray:
    """Edges (..., R (R - 1) / 2), upper triangle row by row, as symmetric matrices with zero diagonal."""
    edges = np.asarray(edges, dtype=np.float32)
    rows, columns = np.triu_indices(n_regions, 1)
    if edges.shape[-1] != len(rows):
        raise BookError(f"{edges.shape[-1]} edges are not those of {n_regions} regions ({len(rows)})")
    full = np.zeros((*edges.shape[:-1], n_regions, n_regions), np.float32)
    full[..., rows, columns] = full[..., columns, rows] = edges
    return full


def _person(record, file: str) -> tuple[np.ndarray, np.ndarray, dict]:
    """fMRI (edges,), EEG (bands, edges), and what is known of one person's recording."""
    try:
        name = str(record.name).strip()
        (session,) = np.atleast_1d(record.sess)
        (eeg,) = np.atleast_1d(session.EEG)
        bands = {str(b.name): np.asarray(b.conn, float) for b in np.atleast_1d(eeg.bands)}
        fmri = np.asarray(session.fMRI, float)
        motion, frames = np.asarray(session.fd_power, float), int(session.scrubbed_fMRI_sess_length)
    except (AttributeError, ValueError, TypeError) as error:
        raise BookError(f"{file} has another layout than expected ({error}): delete it") from error
    if tuple(bands) != BANDS:
        raise BookError(f"{file}, {name}: EEG bands {', '.join(bands)}, expected {', '.join(BANDS)}")
    known = {"participant_id": name.lower(), "frames": frames, "mean_fd": float(np.nanmean(motion))}
    return fmri, np.stack([bands[b] for b in BANDS]), known


def _part(folder: dict[str, Path], system: str, group: str):
    """The people of one file: fMRI (n, edges), EEG (n, bands, edges), participants."""
    data, people = _names(system, group)
    found = [_person(record, data) for record in np.atleast_1d(_mat(folder[data])["subj"])]
    table = pd.read_csv(folder[people], sep="\t", dtype=str)
    table["participant_id"] = table["participant_id"].str.strip().str.lower()  # one id reads Sub-24
    known = pd.DataFrame([k for _, _, k in found])
    if sorted(known["participant_id"]) != sorted(table["participant_id"]):
        odd = sorted(set(known["participant_id"]) ^ set(table["participant_id"]))
        raise BookError(f"unpaired: {', '.join(odd[:3])} are only in one of {data} and {people}")
    merged = known.merge(table, on="participant_id", how="left", validate="one_to_one")
    merged = merged.assign(
        age=pd.to_numeric(merged["age"]).astype(float),
        site=SYSTEMS[system],
        group="control" if group == "controls" else "patient",
        diagnosis=DIAGNOSES[group],
    )
    columns = ["participant_id", "age", "sex", "site", "group", "diagnosis", "frames", "mean_fd"]
    return np.stack([f for f, _, _ in found]), np.stack([e for _, e, _ in found]), merged[columns]


def atlas() -> Atlas:
    """Desikan-68, left then right: coordinates in mm (MNI), Yeo-7 networks as the authors assigned them."""
    coords = np.loadtxt(registry.fetch(f"eeg_fmri_tle/{COORDS}", f"{URL}/{COORDS}", SHA256[COORDS], LICENCE))
    path = registry.fetch(f"eeg_fmri_tle/{NETWORKS}", f"{URL}/{NETWORKS}", SHA256[NETWORKS], LICENCE)
    networks = np.array(YEO7)[np.asarray(_mat(path)["yeoROIs_eeg"], int).ravel() - 1]
    labels = [f"{side}_{gyrus}" for side in ("LH", "RH") for gyrus in GYRI]
    return Atlas("Desikan-68", np.array(labels), networks, coords)


def load() -> Connectomes:
    """All 69 people, sorted by recording system and diagnosis.

    Errors: :class:`MissingData`, :class:`BookError` as :func:`fetch`; :class:`BookError` where files do not
    hold what they should.
    """
    folder = fetch()
    parts = [_part(folder, system, group) for system in SYSTEMS for group in DIAGNOSES]
    fmri, eeg = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    people = pd.concat([part[2] for part in parts], ignore_index=True)
    if people["participant_id"].duplicated().any():
        raise BookError("a participant appears twice in the files of eeg_fmri_tle: delete them")
    for what, x, low, high in (("correlations", fmri, -1, 1), ("coherences", eeg, 0, 1)):
        if not ((x > low) & (x < high)).all():
            raise BookError(f"eeg_fmri_tle: {what} outside ({low}, {high}) or NaN: delete the files")
    return Connectomes(matrix(np.arctanh(fmri)), matrix(eeg), people, atlas())


def desikan_from_cc200() -> np.ndarray:
    """Weights (68, 200) that average the Craddock-200 regions of ABIDE into Desikan regions.

    Each Craddock region within 30 mm of a Desikan centre goes to the nearest one; a Desikan region that gets
    none takes the nearest Craddock region. Rows sum to 1. Coarse: both atlases are known by centres alone.
    """
    from helpers.data import abide

    ours, theirs = atlas().coords, abide.atlas().coords
    distance = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)  # (68, 200)
    weights = np.zeros(distance.shape, np.float32)
    nearest = distance.argmin(axis=0)
    close = distance.min(axis=0) <= 30.0
    weights[nearest[close], np.flatnonzero(close)] = 1
    empty = np.flatnonzero(weights.sum(axis=1) == 0)
    weights[empty, distance[empty].argmin(axis=1)] = 1
    return weights / weights.sum(axis=1, keepdims=True)


def abide_connectomes(n_subjects: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """fMRI connectomes of ABIDE in Desikan-68, (S, 68, 68) Fisher z with zero diagonal, and their ids (S,).

    For pre-training a spatial encoder on fMRI alone. Labels are not handed on, on purpose.
    """
    from helpers.data import abide

    cohort, weights = abide.load(n_subjects), desikan_from_cc200()
    found = []
    for s in range(len(cohort)):
        x = cohort.series(s).astype(float)
        x -= x.mean(axis=1, keepdims=True)
        x /= np.maximum(x.std(axis=1, keepdims=True), 1e-12)
        y = weights @ x
        with np.errstate(invalid="ignore", divide="ignore"):
            fc = np.nan_to_num(np.corrcoef(y))
        np.fill_diagonal(fc, 0)
        found.append(np.arctanh(np.clip(fc, -0.999, 0.999)).astype(np.float32))
    return np.stack(found), cohort.ids
