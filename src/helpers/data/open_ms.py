"""MRI of 30 people with multiple sclerosis: FLAIR, T1, T1 after gadolinium, T2, and a consensus lesion mask.

Lesjak et al. 2018, in the form of the repository ``muschellij2/open_ms_data`` at a fixed commit:
skull-stripped, bias-corrected, registered to MNI space at 1 mm. 16 MB a person. ``open_ms_30.csv`` names
every file by its git blob id, and by its sha256 where that has been checked; three patients have one and
are the default.

There is one kind of lesion, so no enhancing tumour or core; three people demonstrate, they do not measure.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pooch

from helpers import io
from helpers.data import nifti, registry
from helpers.data.cohort import Provenance
from helpers.data.volumes import Volumes
from helpers.errors import BookError
from helpers.paths import data_root

COMMIT = "65704901f60650824565aa5a4818611aa89716f4"
URL = f"https://raw.githubusercontent.com/muschellij2/open_ms_data/{COMMIT}/cross_sectional/MNI"
LICENCE = "CC BY"
CITATION = "Lesjak et al. 2018, doi:10.1007/s12021-017-9348-7"
CONTRASTS = ("FLAIR", "T1w", "T1ce", "T2w")
_BRAIN = "_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz"
FILES = {"FLAIR": f"FLAIR{_BRAIN}", "T1w": f"T1{_BRAIN}", "T1ce": f"T1POST{_BRAIN}", "T2w": f"T2{_BRAIN}"}
FILES["lesions"] = "GOLD_STANDARD_N4_noneck_reduced_winsor_regtoFLAIR_regtoMNI.nii.gz"
LABELS = {0: "background", 1: "lesion"}
REGIONS = {"lesion": (1,)}


@lru_cache(maxsize=1)
def _table() -> pd.DataFrame:
    with (files("helpers.data") / "open_ms_30.csv").open() as handle:
        return pd.read_csv(handle, dtype=str, keep_default_na=False)


def patients(*, checked: bool = True) -> list[str]:
    """Names of the patients: those whose every file has a checked sha256, or all 30."""
    table = _table()
    known = table.groupby("patient")["sha256"].apply(lambda s: (s != "").all())
    return [str(p) for p in known.index if known[p] or not checked]


def git_blob_sha1(path: Path | str) -> str:
    """Id that git gives to the content of a file: sha1 of b"blob <size>\\0" + content."""
    path = Path(path)
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(row) -> Path:
    """Path of one file, downloaded on first use, checked by sha256 or else by git's id on every use."""
    name = FILES[row.image]
    local, url = f"open_ms/{row.patient}/{name}", f"{URL}/{row.patient}/{name}"
    if row.sha256:
        return registry.fetch(local, url, row.sha256, LICENCE)
    path = data_root() / local
    if not path.is_file():
        io.make_folder(path.parent)
        print(f"downloading {row.patient} {row.image} from {url} (licence: {LICENCE})")
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            pooch.HTTPDownloader(progressbar=False, timeout=registry.TIMEOUT)(url, str(part), None)
            if git_blob_sha1(part) != row.git_blob_sha1:
                raise BookError(f"{url} sent another file than expected: nothing was kept; try again")
            os.replace(part, path)
        except OSError as error:
            raise registry.missing(path, url, error) from error
        finally:
            part.unlink(missing_ok=True)
    elif git_blob_sha1(path) != row.git_blob_sha1:
        registry.set_aside(path)
        raise BookError(f"damaged, not used: {path}; run again to download it anew")
    return path


def read(patient: str) -> tuple[nifti.Case, dict[str, str]]:
    """One patient at 1 mm, and the sha256 of the files."""
    table = _table()
    rows = table[table["patient"] == patient]
    if rows.empty:
        raise BookError(
            f"unknown patient {patient!r}: choose from {', '.join(patients())}, or patient01 to 30"
        )
    paths = {row.image: _fetch(row) for row in rows.itertuples()}
    hashes = {f"{patient}/{path.name}": io.sha256(path) for path in paths.values()}
    return nifti.read_case(patient, {c: paths[c] for c in CONTRASTS}, paths["lesions"]), hashes


def load(
    chosen: Sequence[str] | int | None = None,
    *,
    slices: int = 24,
    size: int = 96,
    factor: int = 2,
    lesions_only: bool = True,
) -> Volumes:
    """Axial slices of some patients, (S, 4, size, size), averaged over blocks of ``factor`` mm.

    ``chosen``: names, or how many of the 30 (those with a checked sha256 first); by default the checked ones.
    ``slices`` a patient, evenly spaced over those that show a lesion of two pixels or more, or with
    ``lesions_only=False`` over all those that show a good deal of brain. Images are raw: use ``normalise``.
    """
    every = list(dict.fromkeys(patients() + patients(checked=False)))
    if chosen is None:
        chosen = patients()
    elif isinstance(chosen, (int, np.integer)) and not isinstance(chosen, bool):
        if not 1 <= chosen <= len(every):
            raise BookError(f"{chosen} patients asked: there are from 1 to {len(every)}")
        chosen = every[:chosen]
    for name, value in (("slices", slices), ("size", size), ("factor", factor)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise BookError(f"{name} is {value!r}: expected a whole number from 1 up")
    images, labels, masks, rows, hashes = [], [], [], [], {}
    for patient in chosen:
        case, sha256 = read(patient)
        hashes |= sha256
        x = nifti.shrink(case.images, factor)
        brain = nifti.shrink((case.images != 0).all(axis=0).astype(np.float32), factor) > 0.5
        y = nifti.shrink_labels(case.labels, factor) * brain
        x = x * brain
        area = brain.sum(axis=(0, 1))
        good = area > 0.25 * area.max()
        if lesions_only:
            good &= y.astype(bool).sum(axis=(0, 1)) >= 2
        picked = nifti.spread(np.flatnonzero(good), slices)
        if len(picked) == 0:
            raise BookError(f"{patient}: no slice shows a lesion at {factor} mm: choose a smaller factor")
        images.append(nifti.fit(nifti.upright(x[..., picked]).swapaxes(0, 1), (size, size)))
        labels.append(nifti.fit(nifti.upright(y[..., picked]), (size, size)))
        masks.append(nifti.fit(nifti.upright(brain[..., picked]), (size, size)))
        bottom = case.affine[2, 3] + (factor - 1) / 2 * case.spacing[2]
        for k in picked.tolist():
            height = bottom + k * factor * case.spacing[2]
            rows.append({"participant_id": patient, "slice": k, "z": round(float(height), 1)})
    return Volumes.validate(
        images=np.concatenate(images),
        labels=np.concatenate(labels),
        mask=np.concatenate(masks),
        contrasts=CONTRASTS,
        participants=pd.DataFrame(rows),
        spacing=(float(factor),) * 2,
        label_names=LABELS,
        regions=REGIONS,
        provenance=Provenance(
            name="open MS data",
            source=URL,
            licence=LICENCE,
            citation=CITATION,
            sha256=hashes,
            notes=f"{len(chosen)} of 30 patients; slices={slices}, size={size}, factor={factor},"
            f" lesions_only={lesions_only}",
        ),
    )
