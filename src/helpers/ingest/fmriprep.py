"""One run of fMRIPrep's derivatives -> series in regions, with motion and coverage looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.errors import BookError
from helpers.ingest import report
from helpers.ingest.atlases import Regions
from helpers.ingest.work import Run

STRATEGIES = ("simple", "scrubbing", "compcor", "ica_aroma")
MOTION = ("basic", "power2", "derivatives", "full")


@dataclass(frozen=True)
class Settings:
    """What decides over the result.

    strategy        nilearn's ``load_confounds_strategy``; motion as there
    tr              seconds to resample to, without aliasing; None leaves each run as it is
    max_fd          mean framewise displacement in mm beyond which a run is left out
    max_moving      share of frames above 0.5 mm beyond which it is left out
    min_coverage    share of a region's voxels that must lie within the brain mask and vary
    max_uncovered   share of regions below that; more and the run is left out, fewer are set to zero
    min_frames, min_dof  frames that remain, and frames less the regressors that were taken out
    """

    strategy: str = "simple"
    motion: str = "full"
    tr: float | None = None
    max_fd: float = 0.5
    max_moving: float = 0.5
    min_coverage: float = 0.5
    max_uncovered: float = 0.1
    min_frames: int = 100
    min_dof: int = 50

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES or self.motion not in MOTION:
            raise BookError(f"--strategy is one of {', '.join(STRATEGIES)}; --motion of {', '.join(MOTION)}")
        if self.tr is not None and not 0.05 <= self.tr <= 20:
            raise BookError(f"--tr {self.tr}: give seconds between 0.05 and 20")
        if self.tr is not None and self.strategy == "scrubbing":
            raise BookError("--tr with scrubbing: frames are missing, so there is no even clock to resample")
        shares = {"max_moving": self.max_moving, "min_coverage": self.min_coverage}
        for name, value in (shares | {"max_uncovered": self.max_uncovered}).items():
            if not 0 <= value <= 1:
                raise BookError(f"--{name.replace('_', '-')} {value}: give a share from 0 to 1")


def find(root: Path, *, task: str | None = None, space: str | None = None) -> list[Run]:
    """The preprocessed runs under ``root`` in an MNI space, in order of their names."""
    if not root.is_dir():
        raise BookError(f"{root} is not a folder")
    pattern = f"space-{space}" if space else "space-MNI"
    found = [
        path
        for path in sorted(root.rglob("sub-*_bold.nii.gz"))
        if pattern in path.name
        and "_desc-preproc_" in path.name
        and (not task or f"_task-{task}_" in path.name)
    ]
    if not found:
        raise BookError(
            f"no run *{pattern}*_desc-preproc_bold.nii.gz{f' of task {task}' if task else ''} under {root}"
        )
    if not task and len(tasks := {_entity(p, "task") for p in found}) > 1:
        raise BookError(f"several tasks ({', '.join(sorted(tasks))}): say --task NAME")
    if len(spaces := {_entity(p, "space") for p in found}) > 1:
        raise BookError(f"several spaces ({', '.join(sorted(spaces))}): say --space NAME")
    runs = []
    for path in found:
        name = path.name.removesuffix("_desc-preproc_bold.nii.gz")
        files = [path, confounds_file(path), mask_file(path), *sidecars(path)]
        runs.append(Run(name, path.name.split("_")[0], [f for f in files if f is not None]))
    if len({run.name for run in runs}) < len(runs):
        raise BookError(f"{root} holds the same run twice: point to one derivative")
    return runs


def _entity(path: Path, name: str) -> str:
    found = re.search(rf"_{name}-([A-Za-z0-9]+)", path.name)
    return found.group(1) if found else ""


def confounds_file(bold: Path) -> Path | None:
    stem = re.split(r"_space-", bold.name)[0]
    for end in ("desc-confounds_timeseries", "desc-confounds_regressors", "desc-reducedConfounds_regressors"):
        if (path := bold.with_name(f"{stem}_{end}.tsv")).is_file():
            return path
    return None


def mask_file(bold: Path) -> Path | None:
    path = bold.with_name(bold.name.replace("_desc-preproc_bold", "_desc-brain_mask"))
    return path if path.is_file() else None


def sidecars(bold: Path) -> list[Path]:
    """JSON files that speak of the run: its own, and by inheritance those above it that name no other."""
    own = set(bold.name.removesuffix("_bold.nii.gz").split("_"))
    found = []
    for folder in [bold.parent, *list(bold.parents)[1:5]]:
        near = [p for p in folder.glob("*_bold.json") if set(p.name.split("_")[:-1]) <= own]
        found += sorted(near, key=lambda p: -len(p.name))
    return found


def repetition_time(bold: Path, image: Any) -> float:
    """Seconds between frames: the sidecar's, which must agree with the header's where both are said."""
    said, side = None, None
    for side in sidecars(bold):
        try:
            said = json.loads(side.read_text()).get("RepetitionTime")
        except (ValueError, AttributeError) as error:
            raise BookError(f"{side.name} is not JSON ({error})") from error
        if said is not None:
            break
    unit = image.header.get_xyzt_units()[1]
    zoom = float(image.header.get_zooms()[3]) * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
    header = zoom if 0.05 < zoom < 20 and (unit != "unknown" or zoom != 1.0) else None
    if said is None and header is None:
        raise BookError("no repetition time: neither RepetitionTime in the sidecar nor one in the header")
    if said is not None and not (isinstance(said, int | float) and 0.05 < said < 20):
        raise BookError(f"RepetitionTime is {said!r} in {side.name}: expected seconds")
    if said is not None and header is not None and unit != "unknown" and abs(said - header) > 0.01 * header:
        raise BookError(f"repetition time: {said:g} s in the sidecar, {header:g} s in the header")
    return float(said if said is not None else header)


def confounds(bold: Path, settings: Settings) -> tuple[pd.DataFrame, np.ndarray | None, pd.DataFrame, str]:
    """Regressors (T, C), the frames that are kept (None: all), the whole table, and how it was done."""
    path = confounds_file(bold)
    if path is None:
        raise BookError("no confounds table beside the run: nothing was cleaned, so it is not used")
    whole = pd.read_csv(path, sep="\t", na_values=["n/a"])
    if "reducedConfounds" in path.name:  # nilearn's development_fmri: a short table, taken whole
        used = whole.drop(columns=[c for c in whole if "framewise" in c or "dvars" in c.lower()])
        return used.fillna(0.0), None, whole, f"all {used.shape[1]} columns of the reduced table"
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    extra = {} if settings.strategy == "ica_aroma" else {"motion": settings.motion}
    used, kept = load_confounds_strategy(str(bold), denoise_strategy=settings.strategy, **extra)
    return used, kept, whole, f"{settings.strategy}, {used.shape[1]} regressors"


def resample(series: np.ndarray, tr: float, to: float) -> tuple[np.ndarray, float]:
    """Series (R, T) at another repetition time, and the one they have then (``to`` to within 0.1 %).

    Polyphase filtering: before frames are dropped, what is faster than the new Nyquist frequency is filtered
    out, so that it cannot come back as something slower.
    """
    from scipy.signal import resample_poly

    ratio = Fraction(tr / to).limit_denominator(200)
    if ratio == 1:
        return series, tr
    if ratio == 0 or abs(float(ratio) * to / tr - 1) > 1e-3:
        raise BookError(f"cannot resample {tr:g} s to {to:g} s: the ratio has no small whole numbers")
    out = resample_poly(series, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    return out.astype(np.float32), tr / float(ratio)


def _signals(image: Any, mask: Any, regions: Regions) -> tuple[np.ndarray, np.ndarray]:
    """Mean series (R, T) and coverage (R,): voxels that lie in the mask and vary, of each region's voxels."""
    from nilearn.image import resample_to_img
    from nilearn.maskers import NiftiLabelsMasker

    labels = resample_to_img(
        regions.image, image.slicer[..., 0], interpolation="nearest", force_resample=True, copy_header=True
    )
    where = np.asarray(labels.dataobj).round().astype(int)
    data = np.asarray(image.dataobj, dtype=np.float32)
    if not np.isfinite(data).all():
        raise BookError("NaN or infinite values in the image")
    alive = np.ptp(data, axis=3) > 0
    if mask is not None:
        if mask.shape[:3] != data.shape[:3]:
            raise BookError(f"the brain mask has shape {mask.shape}, the run {data.shape}")
        alive &= np.asarray(mask.dataobj) > 0
    top = int(max(regions.ids.max(), where.max())) + 1
    total = np.bincount(where.ravel(), minlength=top)[regions.ids]
    inside = np.bincount(where[alive], minlength=top)[regions.ids]
    coverage = np.where(total > 0, inside / np.maximum(total, 1), 0.0)
    import nibabel

    wanted = np.where(alive & np.isin(where, regions.ids), where, 0).astype(np.int32)
    if not wanted.any():
        raise BookError("no region of the atlas lies within the brain mask: is it the same space?")
    masker = NiftiLabelsMasker(
        nibabel.Nifti1Image(wanted, image.affine), resampling_target=None, standardize=None, detrend=False
    )
    found = masker.fit_transform(image)
    present = [int(v) for k, v in masker.region_ids_.items() if k != "background"]
    series = np.zeros((len(regions.ids), data.shape[3]), np.float32)
    row_of = {int(label): r for r, label in enumerate(regions.ids)}
    for column, label in enumerate(present):
        series[row_of[label]] = found[:, column]
    return series, coverage


def process(run: Run, picture: Path, *, regions: Regions, settings: Settings) -> Run:
    """One run from file to clean series; ``run.reason`` says why it is not to be used."""
    import nibabel
    from nilearn.signal import clean

    bold = run.files[0]
    image = nibabel.load(bold)
    if len(image.shape) != 4:
        raise BookError(f"the image has shape {image.shape}: expected four axes")
    tr = repetition_time(bold, image)
    used, kept, table, how = confounds(bold, settings)
    T = image.shape[3]
    if len(table) != T:
        raise BookError(f"the confounds table has {len(table)} rows, the image {T} frames")
    mask = mask_file(bold)
    raw, coverage = _signals(image, None if mask is None else nibabel.load(mask), regions)
    fd = _motion(table)
    n_kept = T if kept is None else len(kept)
    moving = float((fd > 0.5).mean()) if fd is not None else float("nan")
    run.quality = {
        "frames": T,
        "kept": n_kept,
        "TR (s)": tr,
        "mean FD (mm)": float(np.mean(fd)) if fd is not None else float("nan"),
        "frames above 0.5 mm": moving,
        "regions below coverage": int((coverage < settings.min_coverage).sum()),
        "mean coverage": float(coverage.mean()),
        "confounds": how,
    }
    good = coverage >= settings.min_coverage
    dof = n_kept - used.shape[1]
    objections = [
        (fd is None, "no framewise_displacement and no motion parameters in the confounds table"),
        (fd is not None and np.mean(fd) > settings.max_fd, f"mean FD is above {settings.max_fd:g} mm"),
        (moving > settings.max_moving, f"{moving:.0%} of the frames moved by more than 0.5 mm"),
        ((~good).mean() > settings.max_uncovered, f"{(~good).sum()} of {len(good)} regions are not covered"),
        (n_kept < settings.min_frames, f"{n_kept} frames, fewer than {settings.min_frames}"),
        (dof < settings.min_dof, f"{dof} degrees of freedom are left, fewer than {settings.min_dof}"),
    ]
    run.reason = "; ".join(text for bad, text in objections if bad)
    x = raw.copy()
    if dof > 0:
        x = clean(raw.T, confounds=used, sample_mask=kept, standardize=None, detrend=True, t_r=tr).T
    x[~good] = 0.0
    if settings.tr is not None and not run.reason:
        x, tr = resample(x, tr, settings.tr)
        if x.shape[1] < settings.min_frames:
            run.reason = f"{x.shape[1]} frames at {tr:g} s, fewer than {settings.min_frames}"
    run.series, run.tr = np.ascontiguousarray(x, np.float32), tr
    traces = {"coverage|region": (coverage, settings.min_coverage)}
    if fd is not None:
        traces = {"FD (mm)|frame": (fd, settings.max_fd)} | traces
    report.picture(picture, run.name, run.series, tr, traces)
    return run


def _motion(table: pd.DataFrame) -> np.ndarray | None:
    """Framewise displacement in mm: fMRIPrep's, else Power's from the six parameters; None without them."""
    if "framewise_displacement" in table:
        return table["framewise_displacement"].fillna(0.0).to_numpy(float)
    shifts, turns = [f"trans_{a}" for a in "xyz"], [f"rot_{a}" for a in "xyz"]
    if not set(shifts + turns) <= set(table):
        return None
    steps = table[shifts + turns].diff().fillna(0.0).abs()
    return (steps[shifts].sum(axis=1) + 50.0 * steps[turns].sum(axis=1)).to_numpy(float)


def described(settings: Settings, atlas: str) -> Mapping[str, Any]:
    return asdict(settings) | {"atlas": atlas}
