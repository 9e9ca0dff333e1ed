"""ABIDE I: region time series of 140 people with and without autism from four sites, through nilearn.

Preprocessed Connectomes Project, C-PAC pipeline, band-pass 0.01-0.1 Hz, global signal regressed, Craddock-200
regions. ``abide_140.csv`` names the people and the sha256 of each file; the series themselves are CC BY-NC-SA
and never part of this book. The 140 passed the raters' quality check that nilearn applies by default, so ours
takes them by number.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import io
from helpers.data import registry
from helpers.data.cohort import Atlas, Cohort, Provenance
from helpers.errors import BookError
from helpers.paths import data_root

URL = "https://s3.amazonaws.com/fcp-indi/data/Projects/ABIDE_Initiative"  # where nilearn downloads from
PHENOTYPES = "Phenotypic_V1_0b_preprocessed1.csv"
PHENOTYPES_SHA256 = "009f01a89697113e5375ded4fbcff4c85e89a4daa6d13e63c21ae5d57dda0865"
# Seconds, from the ABIDE I scan parameters of each site (the files do not hold them):
# fcon_1000.projects.nitrc.org/indi/abide/abide_I.html
TR = {"NYU": 2.0, "PITT": 1.5, "UM_1": 2.0, "USM": 2.0}
GROUPS = {1: "patient", 2: "control"}  # DX_GROUP: 1 autism, 2 typical control
SEXES = {1: "M", 2: "F"}


@lru_cache(maxsize=1)
def _table() -> pd.DataFrame:
    with (files("helpers.data") / "abide_140.csv").open() as handle:
        return pd.read_csv(handle, dtype={"FILE_ID": str, "SITE_ID": str, "sha256": str})


def subjects() -> pd.DataFrame:
    """The 140: SUB_ID, FILE_ID, SITE_ID, sha256 of the series."""
    return _table().copy()


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    """Craddock-200: centres of the regions in mm (MNI); the regions belong to no named network."""
    with (files("helpers") / "assets" / "cc200.csv").open() as handle:
        table = pd.read_csv(handle)
    labels = [f"CC200_{k}" for k in table["region"]]
    return Atlas(
        "CC200", np.array(labels), np.full(len(table), ""), table[["x", "y", "z"]].to_numpy(np.float32)
    )


def _series_path(root: Path, file_id: str) -> Path:
    return root / "ABIDE_pcp" / "cpac" / "filt_global" / f"{file_id}_rois_cc200.1D"


def _series_url(file_id: str) -> str:
    return f"{URL}/Outputs/cpac/filt_global/rois_cc200/{file_id}_rois_cc200.1D"


def _fetch(data_dir: Path, sub_ids: list[int]):
    """nilearn's fetcher, asked for exactly these people, silent."""
    from nilearn.datasets import fetch_abide_pcp

    return fetch_abide_pcp(
        data_dir=str(data_dir),
        pipeline="cpac",
        band_pass_filtering=True,
        global_signal_regression=True,
        derivatives=["rois_cc200"],
        quality_checked=False,
        url=URL,
        verbose=0,
        SUB_ID=sub_ids,
    )


def _download(root: Path, wanted: pd.DataFrame) -> None:
    """Fill the cache: each file is downloaded elsewhere, checked, and only then moved to its place."""
    phenotypes = root / "ABIDE_pcp" / PHENOTYPES
    lacking = wanted[[not _series_path(root, f).is_file() for f in wanted["FILE_ID"]]]
    if lacking.empty and phenotypes.is_file():
        return
    io.make_folder(root)
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=root))
    except OSError as error:
        raise registry.missing(phenotypes, f"{URL}/{PHENOTYPES}", f"{root} is read-only") from error
    print(f"downloading {len(lacking)} ABIDE series (0.4 MB each, CC BY-NC-SA 3.0) to {root}")
    rows = lacking if len(lacking) else wanted.iloc[:1]
    try:
        if phenotypes.is_file():
            (scratch / "ABIDE_pcp").mkdir()
            shutil.copyfile(phenotypes, scratch / "ABIDE_pcp" / PHENOTYPES)
        for row in rows.itertuples():
            files = (
                (PHENOTYPES_SHA256, f"{URL}/{PHENOTYPES}", Path("ABIDE_pcp") / PHENOTYPES),
                (row.sha256, _series_url(row.FILE_ID), _series_path(Path(), row.FILE_ID)),
            )
            failure = None
            try:
                _fetch(scratch, [int(row.SUB_ID)])
            except Exception as error:  # nilearn lets through whatever the network or a cut file raises
                failure = error
            for sha256, url, local in files:
                if (root / local).is_file():
                    continue
                if not (scratch / local).is_file():
                    raise registry.missing(root / local, url, failure or "nilearn gave nothing") from failure
                if io.sha256(scratch / local) != sha256:
                    raise BookError(
                        f"{url} sent a file with another checksum: nothing of it was kept; try again"
                    )
                with io.atomic(root / local) as temporary:
                    shutil.copyfile(scratch / local, temporary)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # nothing came: leave no empty folder
            root.rmdir()


def _balanced(table: pd.DataFrame, groups: pd.Series, n: int) -> pd.DataFrame:
    """``n`` of the rows, in proportion to the sizes of the site x group cells, in the order of the table."""
    cells = [part.index.tolist() for _, part in table.groupby([table["SITE_ID"], groups], sort=True)]
    quota = np.zeros(len(cells), dtype=int)
    for _ in range(n):  # the cell that is furthest behind its share gets the next place
        behind = [
            (k + 1) / len(cell) if k < len(cell) else np.inf for k, cell in zip(quota, cells, strict=True)
        ]
        quota[int(np.argmin(behind))] += 1
    return table.loc[sorted(i for k, cell in zip(quota, cells, strict=True) for i in cell[:k])]


def load(n_subjects: int | None = None) -> Cohort:
    """ABIDE subset as a cohort: bold (S, 200, T) with T 176 to 296, TR 1.5 or 2 s.

    ``n_subjects`` below 140 takes that many, in proportion to the sites and groups, the same ones every time.
    A region outside a person's field of view is all zero in ABIDE: it would stay zero and be listed in
    ``repairs``; these 140 have none. ``mean_fd`` in the participants table is the mean framewise displacement
    in mm.

    Errors: :class:`MissingData` when files are neither cached nor to be downloaded, :class:`BookError` when
    one is damaged.
    """
    table = _table()
    n = len(table) if n_subjects is None else n_subjects
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= len(table):
        raise BookError(f"n_subjects is {n_subjects!r}: ABIDE here has from 1 to {len(table)} people")
    root = data_root() / "nilearn"
    phenotypes = root / "ABIDE_pcp" / PHENOTYPES
    if phenotypes.is_file():
        registry.verify({phenotypes: PHENOTYPES_SHA256})
    else:
        _download(root, table.iloc[:1])
    groups = pd.read_csv(phenotypes, usecols=["SUB_ID", "DX_GROUP"]).set_index("SUB_ID")["DX_GROUP"]
    wanted = _balanced(table, groups.loc[table["SUB_ID"]].set_axis(table.index), n)
    hashes = {_series_path(root, row.FILE_ID): row.sha256 for row in wanted.itertuples()}
    registry.verify({path: sha256 for path, sha256 in hashes.items() if path.is_file()})
    _download(root, wanted)
    registry.verify(hashes)
    data = _fetch(root, wanted["SUB_ID"].tolist())
    people = data.phenotypic.reset_index(drop=True)
    position = {sub_id: k for k, sub_id in enumerate(people["SUB_ID"])}
    if sorted(position) != wanted["SUB_ID"].tolist():
        raise BookError(
            f"{phenotypes} names {len(people)} of {len(wanted)} people:"
            " set BOOK_DATA to another folder and download again"
        )
    order = [position[sub_id] for sub_id in wanted["SUB_ID"]]
    people = people.iloc[order].reset_index(drop=True)
    participants = pd.DataFrame(
        {
            "participant_id": [f"sub-{sub_id:07d}" for sub_id in people["SUB_ID"]],
            "age": people["AGE_AT_SCAN"].astype(float),
            "sex": people["SEX"].map(SEXES),
            "site": people["SITE_ID"].astype("str"),
            "group": people["DX_GROUP"].map(GROUPS),
            "mean_fd": people["func_mean_fd"].astype(float),
        }
    )
    return Cohort.validate(
        bold=[data.rois_cc200[k].T for k in order],
        participants=participants,
        tr=participants["site"].map(TR).to_numpy(float),
        atlas=atlas(),
        provenance=Provenance(
            name="ABIDE I",
            source=f"{URL}, C-PAC, filt_global, rois_cc200, through nilearn",
            licence="CC BY-NC-SA 3.0",
            citation="Di Martino et al. 2014; Craddock et al. 2013",
            sha256={PHENOTYPES: PHENOTYPES_SHA256, **{path.name: sha256 for path, sha256 in hashes.items()}},
            notes=f"{n} of the 140 people in abide_140.csv; TR from the ABIDE scan parameters of each site",
        ),
        on_constant="zero",
    )
