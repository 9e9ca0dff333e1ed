"""Simulated BOLD whose true directed network is known: NetSim and the feedback networks.

``truth[i, j] == 1`` means region i drives region j, everywhere in this book.

- **NetSim** (Smith et al. 2011): 28 sets of 50 simulated people. Sixteen of them, those whose checksum the
  book knows, are read from the copy in the GVAR repository: ``fmri_sim{k}.npy`` (S, R, T, 1), and
  ``fmri_sim{k}_struct.csv``, the off-diagonal entries, row by row, of the **transposed** truth.
- **Feedback networks** (Sanchez-Romero et al. 2019): networks with two-cycles, 60 simulated people of 500
  frames; one text file a person, and a list of edges such as ``X1 --> X2``.

27 of the 28 NetSim graphs only have edges from a lower to a higher region number: whoever looks at the number
of a region knows the direction. The loaders therefore reorder the regions of each set at random, always the
same way; ``permute=None`` gives the order of the file.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.data import registry
from helpers.data.cohort import Provenance
from helpers.errors import BookError
from helpers.paths import data_root

NETSIM_COMMIT = "e06268f87fbe923580af14b2cab26399191747a6"
FEEDBACK_COMMIT = "a23adc349a23fc34d258193b45c60522ca6355b4"
NETSIM_URL = f"https://raw.githubusercontent.com/i6092467/GVAR/{NETSIM_COMMIT}/datasets/fMRI/data"
FEEDBACK_URL = (
    f"https://raw.githubusercontent.com/cmu-phil/example-causal-datasets/{FEEDBACK_COMMIT}/simulated"
)
NETSIM_LICENCE = "none stated; simulated data of Smith et al. 2011, cite the paper"
FEEDBACK_LICENCE = "CC0-1.0"
NETSIM_HERE = (1, 2, 3, 4, 5, 8, 10, 11, 12, 13, 14, 15, 25, 26, 27, 28)  # sets with known checksums
FEEDBACK_HERE = (1, 2, 3, 4, 5, 6)
NETSIM_TR, FEEDBACK_TR = 3.0, 1.2  # seconds, from the papers: the files do not hold them
MIN_FRAMES = 32

# Regions, frames and true edges of the 28 sets, and what sets each apart (Smith et al. 2011).
_NETSIM = {
    1: (5, 200, 5, "the basic network"),
    2: (10, 200, 11, "10 regions"),
    3: (15, 200, 18, "15 regions"),
    4: (50, 200, 61, "50 regions"),
    5: (5, 1200, 5, "60 minutes"),
    6: (10, 1200, 11, "10 regions, 60 minutes"),
    7: (5, 5000, 5, "250 minutes"),
    8: (5, 200, 5, "shared inputs"),
    9: (5, 5000, 5, "shared inputs, 250 minutes"),
    10: (5, 200, 5, "a global signal is added"),
    11: (10, 200, 11, "bad regions: signals mixed with each other"),
    12: (10, 200, 11, "bad regions: foreign signals mixed in"),
    13: (5, 200, 5, "negative backward connections that differ between people"),
    14: (5, 200, 5, "a cycle through all regions"),
    15: (5, 200, 5, "stronger connections"),
    16: (5, 200, 7, "more connections"),
    17: (10, 200, 11, "10 regions, less noise"),
    18: (5, 200, 5, "the same haemodynamics everywhere"),
    19: (5, 2400, 5, "TR 0.25 s, longer neural lags"),
    20: (5, 2400, 5, "TR 0.25 s, longer neural lags, the same haemodynamics everywhere"),
    21: (5, 200, 5, "two groups of people"),
    22: (5, 200, 5, "connections change in time"),
    23: (5, 200, 5, "connections do not change, counterpart of 22"),
    24: (5, 200, 5, "one strong input"),
    25: (5, 100, 5, "5 minutes"),
    26: (5, 50, 5, "2.5 minutes"),
    27: (5, 50, 5, "2.5 minutes, less noise"),
    28: (5, 100, 5, "5 minutes, less noise"),
}
_NOTES = {
    13: "the truth holds the five connections that everybody has; the negative backward ones differ between"
    " people and are not in the file",
    14: "the only NetSim graph with a directed cycle",
}


@dataclass(frozen=True, eq=False)
class NetworkSet:
    """BOLD of many simulated people and the directed network that made it.

    ``bold`` (S, R, T) float32, arbitrary units. ``truth`` (R, R) int8, ``truth[i, j] == 1``: i drives j;
    the diagonal is 0. ``order`` (R,): region k is region ``order[k]`` of the file. ``subject_truth``
    (S, R, R): each person's connection weights where they are known, else None.

    Build one with :meth:`validate`, which checks everything.
    """

    bold: np.ndarray
    truth: np.ndarray
    tr: float
    name: str
    provenance: Provenance
    order: np.ndarray
    subject_truth: np.ndarray | None = None
    notes: str = ""

    def __len__(self) -> int:
        return len(self.bold)

    @property
    def family(self) -> str:
        """``netsim``, ``feedback`` or ``simulated``: the first word of the name."""
        return self.name.split()[0].lower()

    @property
    def n_regions(self) -> int:
        return self.bold.shape[1]

    @property
    def n_frames(self) -> int:
        return self.bold.shape[2]

    @property
    def n_edges(self) -> int:
        """Directed edges; a two-cycle counts twice."""
        return int(self.truth.sum())

    @property
    def two_cycles(self) -> int:
        """Pairs that drive each other."""
        return int((self.truth * self.truth.T).sum()) // 2

    @property
    def hash(self) -> str:
        """Identity of the data: 12 hex digits of the sha256 over shape, series, truth, TR and order."""
        digest = hashlib.sha256(repr(self.bold.shape).encode())
        for part in (self.bold, self.truth, np.float64(self.tr), self.order.astype(np.int64)):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()[:12]

    def reordered(self, index: np.ndarray) -> NetworkSet:
        """The same set with region ``index[k]`` of this one in place k."""
        index = np.asarray(index)
        if sorted(index.tolist()) != list(range(self.n_regions)):
            raise BookError(f"{self.name}: {index.tolist()} is no order of {self.n_regions} regions")
        weights = self.subject_truth
        return replace(
            self,
            bold=np.ascontiguousarray(self.bold[:, index]),
            truth=self.truth[np.ix_(index, index)],
            order=self.order[index],
            subject_truth=None if weights is None else weights[:, index[:, None], index],
        )

    def permuted(self, seed: int) -> NetworkSet:
        """The regions in a random order that depends on ``seed`` and the name of the set only."""
        words = list(hashlib.sha256(self.name.encode()).digest()[:4])
        return self.reordered(np.random.default_rng([seed, *words]).permutation(self.n_regions))

    def in_file_order(self) -> NetworkSet:
        """The regions in the order of the file, where the number of a region may give the truth away."""
        return self.reordered(np.argsort(self.order))

    def select(self, index) -> NetworkSet:
        """The set of some people only: integers, a mask or a slice."""
        try:
            index = np.arange(len(self))[index]
        except IndexError as error:
            raise BookError(f"select: {error} ({len(self)} people)") from error
        if index.ndim != 1 or len(index) == 0:
            raise BookError(f"select: {index.size} of {len(self)} people picked: give a list, mask or slice")
        weights = None if self.subject_truth is None else self.subject_truth[index]
        return replace(self, bold=self.bold[index], subject_truth=weights)

    def __repr__(self) -> str:
        cycles = f", {self.two_cycles} two-cycles" if self.two_cycles else ""
        return (
            f"NetworkSet({self.name}: {len(self)} people, {self.n_regions} regions, {self.n_frames} frames,"
            f" TR {self.tr:g} s, {self.n_edges} edges{cycles}, {self.hash})"
        )

    @classmethod
    def validate(
        cls,
        *,
        bold: np.ndarray | list[np.ndarray],
        truth: np.ndarray,
        tr: float,
        name: str,
        provenance: Provenance,
        order: np.ndarray | None = None,
        subject_truth: np.ndarray | None = None,
        notes: str = "",
    ) -> NetworkSet:
        """Check everything that later code takes for granted and build a set.

        Errors: :class:`BookError`, naming the set and the first person or region that is wrong.
        """
        series = [np.asarray(x) for x in bold]
        lengths = sorted({x.shape[-1] for x in series if x.ndim})
        if len(lengths) > 1:
            raise BookError(
                f"{name}: people have {lengths[0]} to {lengths[-1]} frames: a set has one length; cut them"
            )
        if len({x.shape for x in series}) > 1:
            shapes = sorted({x.shape for x in series})
            raise BookError(f"{name}: people have series of shapes {shapes[0]} and {shapes[1]}")
        bold = check_series(np.stack(series) if series else np.zeros((0, 0, 0)), name=name)
        S, R, _ = bold.shape
        truth = np.asarray(truth)
        if truth.shape != (R, R) or not np.isin(truth, (0, 1)).all() or np.diag(truth).any():
            raise BookError(f"{name}: truth must be {R} x {R}, of 0 and 1, with zeros on the diagonal")
        if not isinstance(tr, (int, float)) or not np.isfinite(tr) or tr <= 0:
            raise BookError(f"{name}: tr is {tr!r}: expected seconds above 0")
        order = np.arange(R) if order is None else np.asarray(order)
        if subject_truth is not None and np.shape(subject_truth) != (S, R, R):
            raise BookError(
                f"{name}: subject_truth has shape {np.shape(subject_truth)}, expected {(S, R, R)}"
            )
        return cls(bold, truth.astype(np.int8), float(tr), name, provenance, order, subject_truth, notes)


def check_series(x: np.ndarray, *, name: str = "series", min_frames: int = MIN_FRAMES) -> np.ndarray:
    """Series (S, R, T) or (R, T) as float32, if a network can be estimated from them.

    Errors: :class:`BookError` for one region, too few frames, NaN, or a region that does not vary.
    """
    x = np.asarray(x)
    if x.ndim not in (2, 3) or x.dtype.kind not in "fiu":
        raise BookError(f"{name}: expected real numbers (people, regions, frames), got {x.dtype} {x.shape}")
    if 0 in x.shape:
        raise BookError(f"{name}: empty, shape {x.shape}: nothing to read a network from")
    R, T = x.shape[-2:]
    if R < 2:
        raise BookError(
            f"{name}: one region: a network needs at least two (axes are people, regions, frames)"
        )
    if T < min_frames:
        raise BookError(f"{name}: {T} frames, at least {min_frames} are needed (the last axis is time)")
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, dtype=np.float32)
    people = x.reshape(-1, R, T)
    for what, bad in (
        ("NaN or infinite values", ~np.isfinite(people).all(axis=-1)),
        ("constant over time", np.ptp(people, axis=-1) == 0),
    ):
        if bad.any():
            s, r = np.argwhere(bad)[0]
            more = f" and {int(bad.sum()) - 1} more" if bad.sum() > 1 else ""
            raise BookError(f"{name}: {what}: person {s}, region {r}{more}: leave them out")
    return x


def statistics(data: NetworkSet) -> dict[str, float]:
    """A few numbers that describe a set, means over people: how simulated sets are compared.

    Edges a region; lag-1 and lag-2 autocorrelation; skewness and excess kurtosis; correlation and partial
    correlation of connected pairs, correlation of unconnected ones.
    """
    x = data.bold.astype(float)
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / x.std(axis=-1, keepdims=True)
    T, R = data.n_frames, data.n_regions
    fc = x @ x.swapaxes(1, 2) / T
    precision = np.linalg.inv(fc + 1e-3 * np.eye(R))
    scale = np.sqrt(np.diagonal(precision, axis1=1, axis2=2))
    partial = -precision / scale[:, :, None] / scale[:, None, :]
    linked = (data.truth + data.truth.T) > 0
    apart = ~linked & ~np.eye(R, dtype=bool)
    return {
        "edges a region": data.n_edges / R,
        "lag 1": float((x[..., 1:] * x[..., :-1]).sum(-1).mean() / T),
        "lag 2": float((x[..., 2:] * x[..., :-2]).sum(-1).mean() / T),
        "skewness": float((x**3).mean()),
        "kurtosis": float((x**4).mean() - 3),
        "r linked": float(fc[:, linked].mean()),
        "partial r linked": float(partial[:, linked].mean()),
        "r not linked": float(fc[:, apart].mean()) if apart.any() else float("nan"),
    }


def netsim_sets() -> pd.DataFrame:
    """All 28 NetSim sets: size, what sets each apart, and whether the book can load it (``here``)."""
    rows = {
        k: dict(
            regions=R,
            frames=T,
            tr=_netsim_tr(k),
            edges=K,
            here=k in NETSIM_HERE,
            what=what,
        )
        for k, (R, T, K, what) in _NETSIM.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("NetSim")


def feedback_sets() -> pd.DataFrame:
    """The nine feedback networks of the paper: regions, edges, two-cycles, and whether the book loads it."""
    edges = (6, 7, 7, 19, 5, 8, 6, 9, 10)
    cycles = (1, 2, 2, 4, 1, 1, 0, 0, 0)
    rows = {
        n: dict(edges=K, two_cycles=c, tr=FEEDBACK_TR, frames=500, here=n in FEEDBACK_HERE)
        for n, (K, c) in enumerate(zip(edges, cycles, strict=True), 1)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("feedback")


def netsim(k: int, *, permute: int | None = 2011) -> NetworkSet:
    """NetSim set number ``k``; ``permute`` seeds the order of the regions, None keeps that of the file.

    Errors: :class:`BookError` for a set that does not exist or has no known checksum, or a damaged file;
    :class:`MissingData` when the files are neither cached nor to be downloaded.
    """
    _known("NetSim", k, tuple(_NETSIM), NETSIM_HERE)
    paths = _fetch([f"netsim/fmri_sim{k}.npy", f"netsim/fmri_sim{k}_struct.csv"])
    bold = read_netsim(paths[0])
    found = NetworkSet.validate(
        bold=bold,
        truth=read_netsim_truth(paths[1], bold.shape[1]),
        tr=_netsim_tr(k),
        name=f"NetSim {k}",
        provenance=_provenance(f"NetSim {k}", NETSIM_URL, NETSIM_LICENCE, _SMITH, paths),
        notes=_NOTES.get(k, ""),
    )
    return found if permute is None or permute is False else found.permuted(permute)


def feedback(n: int, *, permute: int | None = 2019) -> NetworkSet:
    """Feedback network number ``n`` (the ``amp`` series); ``permute`` as in :func:`netsim`.

    Network 6 has 59 people: the file of its person 25 is empty upstream and is left out.
    """
    _known("feedback network", n, tuple(range(1, 10)), FEEDBACK_HERE)
    folder = f"Network{n}_amp"
    names = [name for name in _table().index if f"/data/{folder}/" in name]
    truth = f"feedbacks/ground.truth/{folder}/{folder}.ground.truth.graph.txt"
    paths = _fetch([truth, *names])
    series = [read_feedback(path) for path in paths[1:]]
    found = NetworkSet.validate(
        bold=series,
        truth=read_edges(paths[0], series[0].shape[0]),
        tr=FEEDBACK_TR,
        name=f"feedback {n}",
        provenance=_provenance(f"feedback {n}", FEEDBACK_URL, FEEDBACK_LICENCE, _SANCHEZ, paths),
        notes="person 25 is empty upstream and left out" if n == 6 else "",
    )
    return found if permute is None or permute is False else found.permuted(permute)


# -- files ---------------------------------------------------------------------------------------------


def read_netsim(path: Path) -> np.ndarray:
    """``fmri_sim{k}.npy`` (S, R, T, 1) as (S, R, T)."""
    try:
        x = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BookError(f"{path} is empty, truncated or no npy file: delete it and run again") from error
    if x.ndim != 4 or x.shape[-1] != 1:
        raise BookError(f"{path} has shape {x.shape}: expected (people, regions, frames, 1)")
    return x[..., 0]


def read_netsim_truth(path: Path, n_regions: int) -> np.ndarray:
    """``fmri_sim{k}_struct.csv`` as truth (R, R): the file lists the off-diagonal of its transpose."""
    values = _numbers(path).ravel()
    if values.size != n_regions * (n_regions - 1):
        raise BookError(
            f"{path} holds {values.size} numbers, {n_regions} regions have {n_regions} * "
            f"{n_regions - 1} pairs: delete it and run again"
        )
    transposed = np.zeros((n_regions, n_regions), dtype=np.int8)
    transposed[~np.eye(n_regions, dtype=bool)] = values
    return transposed.T


def read_feedback(path: Path) -> np.ndarray:
    """One person of a feedback network: tab-separated columns X1, X2, ... with a header, as (R, T)."""
    header = _text(path).split("\n", 1)[0].split()
    if header != [f"X{k}" for k in range(1, len(header) + 1)]:
        raise BookError(f"{path} does not begin with the columns X1, X2, ...: delete it and run again")
    x = _numbers(path, skiprows=1)
    if x.ndim != 2 or x.shape[1] != len(header):
        raise BookError(f"{path} is truncated: {len(header)} columns expected; delete it and run again")
    return x.T


def read_edges(path: Path, n_regions: int) -> np.ndarray:
    """Lines such as ``3. X2 --> X1`` as truth (R, R)."""
    truth = np.zeros((n_regions, n_regions), dtype=np.int8)
    edges = re.findall(r"^\d+\. X(\d+) --> X(\d+)\s*$", _text(path), flags=re.MULTILINE)
    if not edges:
        raise BookError(f"{path} lists no edge such as 'X1 --> X2': delete it and run again")
    for i, j in edges:
        if max(int(i), int(j)) > n_regions:
            raise BookError(f"{path} names X{max(int(i), int(j))}, the series have {n_regions} regions")
        truth[int(i) - 1, int(j) - 1] = 1
    return truth


def _text(path: Path) -> str:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BookError(f"{path} cannot be read as text: delete it and run again") from error
    if not text.strip():
        raise BookError(f"{path} is empty: leave this person out, or download the file anew")
    return text


def _numbers(path: Path, skiprows: int = 0) -> np.ndarray:
    lines = _text(path).splitlines()[skiprows:]
    try:
        return np.array([[float(word) for word in line.split()] for line in lines if line.strip()])
    except ValueError as error:
        raise BookError(f"{path} is truncated or damaged: delete it and run again") from error


# -- where they come from ------------------------------------------------------------------------------

_SMITH = "Smith et al. 2011, doi:10.1016/j.neuroimage.2010.08.063"
_SANCHEZ = "Sanchez-Romero et al. 2019, doi:10.1162/netn_a_00061"


@lru_cache(maxsize=1)
def _table() -> pd.DataFrame:
    """Files of which the checksum is known: bytes and sha256 by path in the data folder."""
    with (files("helpers.data") / "networks.csv").open() as handle:
        return pd.read_csv(handle, index_col="file")


def _netsim_tr(k: int) -> float:
    return 0.25 if k in (19, 20) else NETSIM_TR


def _known(what: str, number, exist: tuple[int, ...], here: tuple[int, ...]) -> None:
    listed = ", ".join(map(str, here))
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number not in exist:
        raise BookError(f"there is no {what} {number!r}: the book can load {listed}")
    if number not in here:
        raise BookError(
            f"{what} {number} exists upstream, but the book knows no checksum of its files and does not use"
            f" what it cannot check: choose from {listed}"
        )


def _fetch(names: list[str]) -> list[Path]:
    """Paths of files in the data folder, downloaded where they are missing, all verified."""
    known = _table()["sha256"]
    present = {data_root() / name: known[name] for name in names if (data_root() / name).is_file()}
    registry.verify(present)
    for name in names:
        if data_root() / name not in present:
            net = name.startswith("netsim/")
            url = f"{NETSIM_URL}/{Path(name).name}" if net else f"{FEEDBACK_URL}/{name}"
            registry.fetch(name, url, known[name], NETSIM_LICENCE if net else FEEDBACK_LICENCE)
    return [data_root() / name for name in names]


def _provenance(name: str, url: str, licence: str, citation: str, paths: list[Path]) -> Provenance:
    known = {Path(file).name: sha256 for file, sha256 in _table()["sha256"].items()}
    return Provenance(
        name=name,
        source=url,
        licence=licence,
        citation=citation,
        sha256={path.name: known[path.name] for path in paths},
        notes="regions reordered at random unless permute=None",
    )
