"""The regions that signals are averaged over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.data.atlas import schaefer
from helpers.data.cohort import Atlas
from helpers.data.registry import fetch
from helpers.errors import BookError

_URL = (
    "https://raw.githubusercontent.com/yetianmed/subcortex/62751401be0dba587442799748a886d5d87b8364/"
    "Group-Parcellation/3T/Cortex-Subcortex/MNIvolumetric/"
)
_FILE = "Schaefer2018_{}Parcels_7Networks_order_Tian_Subcortex_S3_MNI152NLin6Asym_2mm.nii.gz"
_SHA256 = {
    100: "cab826dd22e51e4dcfe61a30a51b8defc821bb99a2d213c08e028a76ece3b30f",
    400: "a6568b75ec7920bc60262d8b10dfaf9bb9fdbddd518c7313b48ae7465b687d7f",
}
_LICENCE = "Melbourne Subcortex Atlas: free use and redistribution, cite Tian et al. 2020; Schaefer: MIT"
TIAN = 50  # regions of Tian's subcortex at scale 3; they come first in the combined files
NAMES = ("schaefer100", "schaefer400", "schaefer100+tian", "schaefer400+tian")


@dataclass(frozen=True)
class Regions:
    """An atlas as an image: ``image`` (nibabel) holds ``ids[r]`` in region r and 0 outside."""

    atlas: Atlas
    image: object
    ids: np.ndarray


def find(name: str) -> Regions:
    """A named atlas (downloaded once, about 70 kB) or a label image of yours.

    Beside ``FILE.nii.gz`` a table ``FILE.tsv`` with columns index and name, as BIDS has it, names the regions
    and, in a column network, their networks.
    """
    if name in NAMES:
        return _named(name)
    path = Path(name)
    if not path.is_file():
        raise BookError(f"--atlas {name}: neither a file nor one of {', '.join(NAMES)}")
    image = _label_image(path)
    ids = np.unique(np.asarray(image.dataobj))
    ids = ids[ids != 0].astype(int)
    labels, networks = [f"region_{k}" for k in ids], [""] * len(ids)
    table = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".tsv")
    if table.is_file():
        labels, networks = _names(table, ids)
    return Regions(Atlas(path.name.split(".")[0], labels, networks, centres(image, ids)), image, ids)


def _named(name: str) -> Regions:
    size = 100 if "100" in name else 400
    file = _FILE.format(size)
    image = _label_image(fetch(f"atlas/{file}", _URL + file, _SHA256[size], _LICENCE))
    cortex = schaefer(size)
    ids = np.arange(1, TIAN + size + 1)
    labels = np.array([*(f"Tian_S3_{k}" for k in range(1, TIAN + 1)), *cortex.labels])
    networks = np.array(["Subcortex"] * TIAN + cortex.networks.tolist())
    if not name.endswith("+tian"):
        ids, labels, networks = ids[TIAN:], labels[TIAN:], networks[TIAN:]
    known_as = f"Schaefer-{size}" + (" + Tian-S3" if name.endswith("+tian") else "")
    return Regions(Atlas(known_as, labels, networks, centres(image, ids)), image, ids)


def _label_image(path: Path):
    import nibabel

    try:
        image = nibabel.load(path)
        data = np.asarray(image.dataobj)
    except Exception as error:  # nibabel, gzip and zlib raise kinds of their own
        raise BookError(f"atlas {path} cannot be read: {' '.join(str(error).split())[:150]}") from error
    if data.ndim != 3 or data.size == 0:
        raise BookError(f"atlas {path} has shape {data.shape}: expected a 3D image of labels")
    if not np.isfinite(data).all() or (data != np.round(data)).any() or data.min() < 0:
        raise BookError(f"atlas {path} holds values that are no labels: expected 0, 1, 2, ...")
    if not data.any():
        raise BookError(f"atlas {path} holds no region")
    return nibabel.Nifti1Image(data.astype(np.int32), image.affine)


def _names(table: Path, ids: np.ndarray) -> tuple[list[str], list[str]]:
    try:
        known = pd.read_csv(table, sep="\t").set_index("index")
        labels = known["name"].astype(str)
    except (OSError, ValueError, KeyError) as error:
        raise BookError(f"{table}: expected columns index and name ({error})") from error
    if not set(ids) <= set(known.index) or known.index.duplicated().any():
        raise BookError(f"{table} does not name every label of the image once")
    networks = known["network"].fillna("").astype(str) if "network" in known else labels.map(lambda _: "")
    return labels.loc[ids].tolist(), networks.loc[ids].tolist()


def centres(image, ids: np.ndarray) -> np.ndarray:
    """Centre of mass of every region, (R, 3) float32, in mm of the image's space."""
    import nibabel
    from scipy import ndimage

    data = np.asarray(image.dataobj)
    middle = ndimage.center_of_mass(data > 0, data, ids)
    return nibabel.affines.apply_affine(image.affine, np.array(middle)).astype(np.float32)
