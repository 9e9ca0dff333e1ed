"""BraTS in its usual folder layout; the reader brings it (registration needed) and we only read it.

One folder a case, anywhere below the given folder, named like its files::

    BraTS18_..._1/BraTS18_..._1_{flair,t1,t1ce,t2,seg}.nii.gz          2017 to 2021
    BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t2f,t1n,t1c,t2w,seg}.nii.gz  2023 and later

Labels: 1 necrotic or non-enhancing core, 2 oedema, 4 enhancing; 2023's 3 becomes 4. Cases without ``seg``
(the challenge's test sets) are left out unless ``labelled=False``, and then have label 0 throughout.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import io
from helpers.data import nifti
from helpers.data.cohort import Provenance
from helpers.data.volumes import BRATS_LABELS, BRATS_REGIONS, Volumes
from helpers.errors import BookError, MissingData

CONTRASTS = ("FLAIR", "T1w", "T1ce", "T2w")
OLD = dict(zip((*CONTRASTS, "labels"), ("_flair", "_t1", "_t1ce", "_t2", "_seg"), strict=True))
NEW = dict(zip((*CONTRASTS, "labels"), ("-t2f", "-t1n", "-t1c", "-t2w", "-seg"), strict=True))
ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Files:
    """Where one case lies: its name, the path of each contrast, of the labels (or None), and the layout."""

    name: str
    images: dict[str, Path]
    labels: Path | None
    renamed: bool  # labels of 2023: 3 stands for enhancing


def _find(folder: Path, stem: str) -> Path | None:
    return next((folder / f"{stem}{e}" for e in ENDINGS if (folder / f"{stem}{e}").is_file()), None)


def cases(folder: str | Path, *, labelled: bool = True) -> list[Files]:
    """All cases below ``folder``, sorted by name. A case that lacks a contrast is an error that names it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingData(f"no such folder: {folder}: give the folder that holds the BraTS cases")
    found, lacking = {}, []
    for place in sorted(p for p in [folder, *folder.rglob("*")] if p.is_dir()):
        for layout in (OLD, NEW):
            paths = {c: _find(place, place.name + tail) for c, tail in layout.items()}
            if not any(paths[c] for c in CONTRASTS):
                continue
            if not all(paths[c] for c in CONTRASTS):
                lacking.append(f"{place.name} lacks {', '.join(c for c in CONTRASTS if not paths[c])}")
            elif paths["labels"] or not labelled:
                if place.name in found:
                    raise BookError(f"the case {place.name} appears twice below {folder}")
                marks = paths.pop("labels")
                found[place.name] = Files(place.name, paths, marks, layout is NEW)
    if lacking:
        raise BookError(f"{len(lacking)} incomplete cases in {folder}: {'; '.join(lacking[:3])}")
    if not found:
        raise MissingData(
            f"no BraTS case{' with labels' if labelled else ''} below {folder}: expected"
            " NAME/NAME_flair.nii.gz (2017 to 2021) or NAME/NAME-t2f.nii.gz (2023) and the other contrasts"
        )
    return [found[name] for name in sorted(found)]


def read(files: Files) -> nifti.Case:
    """One case at its full size, labels 0, 1, 2, 4."""
    relabel = {3: 4} if files.renamed else None
    return nifti.read_case(files.name, files.images, files.labels, relabel=relabel)


def _brain(case: nifti.Case) -> np.ndarray:
    return (case.images != 0).any(axis=0)  # BraTS is skull-stripped: 0 outside


def load(
    folder: str | Path,
    n_subjects: int | None = None,
    *,
    slices: int = 8,
    size: int = 240,
    factor: int = 1,
    labelled: bool = True,
) -> Volumes:
    """Axial slices (S, 4, size, size) of the first ``n_subjects`` cases, spread over those with a tumour."""
    chosen = _first(cases(folder, labelled=labelled), n_subjects, folder)
    images, labels, masks, rows = [], [], [], []
    for files in chosen:
        case = read(files)
        x, y, brain = _shrunk(case, factor)
        area = brain.sum(axis=(0, 1))
        wanted = (y > 0).any(axis=(0, 1)) if y.any() else area > 0.25 * area.max()
        picked = nifti.spread(np.flatnonzero(wanted & (area > 0)), slices)
        if len(picked) == 0:
            raise BookError(f"{files.name}: the images are empty")
        images.append(nifti.fit(nifti.upright(x[..., picked]).swapaxes(0, 1), (size, size)))
        labels.append(nifti.fit(nifti.upright(y[..., picked]), (size, size)))
        masks.append(nifti.fit(nifti.upright(brain[..., picked]), (size, size)))
        rows += [{"participant_id": files.name, "slice": k} for k in picked.tolist()]
    spacing = tuple(float(v) * factor for v in case.spacing[[1, 0]])
    return _volumes(images, labels, masks, rows, spacing, folder, f"slices={slices}, factor={factor}")


def load_3d(
    folder: str | Path,
    n_subjects: int | None = None,
    *,
    size: tuple[int, int, int] = (128, 160, 160),
    factor: int = 1,
    labelled: bool = True,
) -> Volumes:
    """Volumes (S, 4, D, H, W) cut or padded to ``size`` about the middle of the brain.

    A case of the default size takes 52 MB: for hundreds of them go through :func:`stream` one at a time.
    """
    chosen = _first(cases(folder, labelled=labelled), n_subjects, folder)
    parts = [_volume(read(files), size, factor) for files in chosen]
    images, labels, masks = ([part[k][None] for part in parts] for k in range(3))
    rows = [{"participant_id": files.name, "slice": 0} for files in chosen]
    return _volumes(images, labels, masks, rows, parts[0][3], folder, f"size={size}, factor={factor}")


def stream(
    chosen: Sequence[Files], *, size: tuple[int, int, int] = (128, 160, 160), factor: int = 1
) -> Iterator[Volumes]:
    """The cases one after the other, each as :class:`Volumes` of one row; only one is in memory."""
    for files in chosen:
        x, y, brain, spacing = _volume(read(files), size, factor)
        row = [{"participant_id": files.name, "slice": 0}]
        yield _volumes([x[None]], [y[None]], [brain[None]], row, spacing, files.name, f"size={size}")


def mapped(
    chosen: Sequence[Files], cache: Path | str, *, size: tuple[int, int, int] = (128, 160, 160)
) -> Volumes:
    """The cases as z-scored :class:`Volumes` that stay on disk, in files below ``cache``.

    Cases are read one at a time, once: a later call with the same cases and size opens the files again, and
    processes on one machine share their pages. Keep to views (``images[:n]``): ``select``, ``of`` and
    ``split`` copy.
    """
    cache, shape = io.make_folder(Path(cache)), (len(chosen), len(CONTRASTS), *size)
    content = repr((shape, [(f.name, str(f.images["FLAIR"].absolute())) for f in chosen]))
    stem = hashlib.sha256(content.encode()).hexdigest()[:12]
    kinds = {"images": (np.float32, shape), "labels": (np.uint8, (len(chosen), *size))}
    kinds["mask"] = (bool, (len(chosen), *size))
    files = {kind: cache / f"{stem}_{kind}.npy" for kind in kinds}
    if not all(file.is_file() for file in files.values()):
        with contextlib.ExitStack() as stack:  # whole, or not there
            arrays = {}
            for kind, (dtype, full) in kinds.items():
                temporary = stack.enter_context(io.atomic(files[kind]))
                arrays[kind] = np.lib.format.open_memmap(temporary, "w+", dtype, full)
            for i, volume in enumerate(stream(chosen, size=size)):
                scaled = volume.normalise()
                for kind, array in arrays.items():
                    array[i] = getattr(scaled, kind)[0]
            for array in arrays.values():
                array.flush()
    return replace(
        next(stream(chosen[:1], size=size)),
        available=np.ones(shape[:2], bool),
        participants=pd.DataFrame({"participant_id": [f.name for f in chosen], "slice": 0}),
        scaling="zscore",
        **{kind: np.load(file, mmap_mode="c") for kind, file in files.items()},
    )


def _first(found: list[Files], n: int | None, folder) -> list[Files]:
    if n is None:
        return found
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= len(found):
        raise BookError(f"n_subjects is {n!r}: {folder} holds {len(found)} cases")
    return found[:n]


def _shrunk(case: nifti.Case, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and brain after averaging over blocks."""
    x = nifti.shrink(case.images, factor)
    brain = nifti.shrink(_brain(case).astype(np.float32), factor) >= 0.5
    return x * brain, nifti.shrink_labels(case.labels, factor) * brain, brain


def _volume(case: nifti.Case, size: tuple[int, int, int], factor: int) -> tuple:
    """Images (M, D, H, W), labels and brain (D, H, W) about the middle of the brain, and the spacing."""
    arrays = [nifti.upright(a) for a in _shrunk(case, factor)]
    brain = arrays[2]
    if not brain.any():
        raise BookError(f"{case.name}: the images are empty")
    box = []
    for axis in range(3):
        inside = np.flatnonzero(brain.any(axis=tuple(k for k in range(3) if k != axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    x, y, b = (nifti.fit(a[(..., *box)], size) for a in arrays)
    return x, y, b, tuple(float(v) * factor for v in case.spacing[::-1])


def _volumes(images, labels, masks, rows, spacing, folder, notes: str) -> Volumes:
    return Volumes.validate(
        images=np.concatenate(images),
        labels=np.concatenate(labels),
        mask=np.concatenate(masks),
        contrasts=CONTRASTS,
        participants=pd.DataFrame(rows),
        spacing=spacing,
        label_names=BRATS_LABELS,
        regions=BRATS_REGIONS,
        provenance=Provenance(
            name="BraTS",
            source=f"the reader's own copy, {Path(folder).name}",
            licence="the terms of the challenge, by registration",
            citation="Menze et al. 2015; Bakas et al. 2017, 2018",
            notes=notes,
        ),
    )
