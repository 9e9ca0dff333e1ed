"""IXI in its usual folder layout; the reader brings it and we only read it.

The archives of brain-development.org unpack to one folder a contrast::

    IXI-T1/IXI002-Guys-0828-T1.nii.gz    IXI-T2/IXI002-Guys-0828-T2.nii.gz
    IXI-PD/IXI002-Guys-0828-PD.nii.gz

About 600 healthy people from three London hospitals, CC BY-SA 3.0. T2 and PD are two echoes of one
acquisition; T1 is another acquisition with another grid: register and skull-strip first, or pass
``align=True``, which resamples it in scanner coordinates and trusts that nobody moved. Brain masks are
taken from ``IXI-MASK/...-MASK`` where there are any; without them the mask is the head, and scores inside
it are not scores of the brain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from helpers.data import nifti
from helpers.data.cohort import Provenance
from helpers.data.volumes import Volumes
from helpers.errors import BookError, MissingData

CONTRASTS = ("T1w", "T2w", "PD")
FOLDERS = {"T1w": "T1", "T2w": "T2", "PD": "PD"}
SITES = {"Guys": "Guy's Hospital", "HH": "Hammersmith Hospital", "IOP": "Institute of Psychiatry"}
LABELS = {0: "background"}


def _find(folder: Path, name: str, kind: str) -> Path | None:
    names = [folder / f"IXI-{kind}" / f"{name}-{kind}{end}" for end in (".nii.gz", ".nii")]
    return next((path for path in names if path.is_file()), None)


def people(folder: str | Path, contrasts: tuple[str, ...] = CONTRASTS) -> list[str]:
    """Names such as IXI002-Guys-0828 of all who have every one of the contrasts, sorted."""
    folder = Path(folder)
    unknown = [c for c in contrasts if c not in FOLDERS]
    if unknown or not contrasts:
        raise BookError(f"unknown contrast {', '.join(unknown)!r}: choose from {', '.join(CONTRASTS)}")
    lacking = [f"IXI-{FOLDERS[c]}" for c in contrasts if not (folder / f"IXI-{FOLDERS[c]}").is_dir()]
    if lacking:
        raise MissingData(f"{folder} lacks the folder {', '.join(lacking)}: unpack IXI's archives there")
    kind = FOLDERS[contrasts[0]]
    names = sorted(
        {path.name.rsplit(f"-{kind}.nii", 1)[0] for path in (folder / f"IXI-{kind}").glob("*.nii*")}
    )
    return [name for name in names if all(_find(folder, name, FOLDERS[c]) for c in contrasts)]


def _head(images: np.ndarray) -> np.ndarray:
    """Where any contrast is above a tenth of its 99th percentile; filled slice by slice."""
    from scipy import ndimage

    high = np.percentile(images.reshape(len(images), -1), 99, axis=1)
    head = (images > 0.1 * high[:, None, None, None]).any(axis=0)
    return np.stack([ndimage.binary_fill_holes(s) for s in np.moveaxis(head, 2, 0)], axis=2)


def load(
    folder: str | Path,
    n_subjects: int | None = None,
    *,
    contrasts: tuple[str, ...] = CONTRASTS,
    slices: int = 16,
    size: int = 256,
    factor: int = 1,
    align: bool = False,
) -> Volumes:
    """Axial slices (S, M, size, size) of the first ``n_subjects`` people, on the grid of T2 (or the first).

    ``slices`` a person, evenly spaced over the middle of the brain; label 0 throughout.
    """
    names = people(folder, contrasts)
    if not names:
        raise MissingData(f"nobody below {folder} has all of {', '.join(contrasts)}")
    if n_subjects is not None:
        if isinstance(n_subjects, bool) or not 1 <= n_subjects <= len(names):
            raise BookError(f"n_subjects is {n_subjects!r}: {folder} holds {len(names)} people")
        names = names[:n_subjects]
    order = sorted(contrasts, key=lambda c: c != "T2w")  # the first one read sets the grid
    images, masks, rows, stripped = [], [], [], True
    for name in names:
        paths = {c: _find(Path(folder), name, FOLDERS[c]) for c in order}
        marks = _find(Path(folder), name, "MASK")
        case = nifti.read_case(name, paths, marks, align=align)
        x = nifti.shrink(case.images[[order.index(c) for c in contrasts]], factor)
        stripped &= marks is not None
        mask = (
            _head(x) if marks is None else nifti.shrink((case.labels > 0).astype(np.float32), factor) >= 0.5
        )
        area = mask.sum(axis=(0, 1))
        picked = nifti.spread(np.flatnonzero(area > 0.5 * area.max()), slices)
        if area.max() == 0:
            raise BookError(f"{name}: the images are empty")
        images.append(nifti.fit(nifti.upright((x * mask)[..., picked]).swapaxes(0, 1), (size, size)))
        masks.append(nifti.fit(nifti.upright(mask[..., picked]), (size, size)))
        site = SITES.get(name.split("-")[1], "") if name.count("-") >= 2 else ""
        rows += [{"participant_id": name, "slice": k, "site": site} for k in picked.tolist()]
    masks = np.concatenate(masks)
    return Volumes.validate(
        images=np.concatenate(images),
        labels=np.zeros(masks.shape, dtype=np.uint8),
        mask=masks,
        contrasts=contrasts,
        participants=pd.DataFrame(rows),
        spacing=tuple(float(v) * factor for v in case.spacing[[1, 0]]),
        label_names=LABELS,
        regions={},
        provenance=Provenance(
            name="IXI",
            source=f"the reader's own copy, {Path(folder).name}; https://brain-development.org/ixi-dataset",
            licence="CC BY-SA 3.0",
            citation="IXI, EPSRC GR/S21533/02",
            notes=f"slices={slices}, factor={factor}, align={align};"
            f" mask: {'brain' if stripped else 'head, not brain'}",
        ),
    )
