r"""Brains with a tumour in up to five MRI contrasts, from tissue maps that ship with nilearn.

Geometry first, physics second, the scanner last:

1. **Anatomy.** Fractions of CSF, grey and white matter of the ICBM 152 template, turned, scaled and bent by a
   smooth displacement :math:`u(q)`; a smooth gain on the fractions makes cortex and sulci thicker here and
   thinner there, so that no two people are the same template bent.
2. **Tumour.** A rough ellipsoid (core) whose outer shell may enhance, oedema that follows white matter around
   it, and a mass effect that pushes tissue away. Nothing grows into CSF.
3. **Signal.** :math:`I_m(q) = \sum_k f_k(q)\,S_m(T_{1k}, T_{2k}, PD_k)` with the spin echo and inversion
   recovery of :mod:`helpers.simulate.mri`; gadolinium shortens T1, :math:`1/T_1' = 1/T_1 + r_1 c`. Tissue
   values differ from person to person (``jitter``) and, to first order, from place to place (``texture``,
   three independent fields for T1, T2 and PD).
4. **Scanner.** A smooth bias field, different in every contrast, and complex noise, whose magnitude is
   Rician. Pixels outside the brain are 0. White matter without bias has the value 1 in every contrast.

Everything is a function of (x, y, z) in mm and of (seed, index) and the settings that concern it: the same
person can be drawn again alone, at another resolution, in other contrasts or without the noise.

Constants marked *typical* are values as found in textbooks, chosen so that the ratios to white matter come
near those of real tumour slices; they are no measurement of ours. ``scripts/mri_calibration.py`` prints the
ratios and what a pixel classifier makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from helpers.data.cohort import Provenance
from helpers.data.volumes import BRATS_LABELS, BRATS_REGIONS, Volumes
from helpers.errors import BookError
from helpers.simulate import mri
from helpers.simulate.mri import Sequence as Pulse
from helpers.simulate.mri import Tissue

CONTRASTS = ("FLAIR", "T1w", "T1ce", "T2w", "PD")
FOUR = CONTRASTS[:4]

# T1 and T2 in ms at 1.5 T, proton density relative to CSF; typical values. Grey and white matter lie between
# BrainWeb's (helpers.simulate.mri) and those of Stanisz et al. 2005 (doi:10.1002/mrm.20605). CSF differs from
# BrainWeb on purpose: with its T1 of 2.6 s, FLAIR would have to invert at 1.7 s, and oedema, which is bright
# on every real FLAIR, would be nulled together with the CSF.
TISSUES: dict[str, Tissue] = {
    "CSF": Tissue(t1=4000.0, t2=1800.0, pd=1.00),
    "GM": Tissue(t1=950.0, t2=88.0, pd=0.80),
    "WM": Tissue(t1=640.0, t2=78.0, pd=0.73),
    "vessel": Tissue(t1=1400.0, t2=45.0, pd=0.80),  # a short T2 stands for the flow void of spin echo
    "spot": Tissue(t1=1000.0, t2=118.0, pd=0.84),  # white-matter hyperintensity: bright, but no tumour
    "oedema": Tissue(t1=1250.0, t2=132.0, pd=0.87),
    "enhancing": Tissue(t1=1150.0, t2=122.0, pd=0.88),
    "core": Tissue(t1=1400.0, t2=150.0, pd=0.89),  # solid; moves towards FLUID with ``Tumour.fluid``
}
FLUID = Tissue(t1=2600.0, t2=420.0, pd=0.97)  # liquid necrosis; typical
GADOLINIUM = {"GM": 0.012, "WM": 0.012, "vessel": 1.0, "oedema": 0.02, "core": 0.02}  # mM; typical
RELAXIVITY = 4.5  # r1 of gadolinium chelates at 1.5 T, 1/(mM s); typical

# ms; typical of clinical spin-echo protocols at 1.5 T
SEQUENCES: dict[str, Pulse] = {
    "FLAIR": Pulse(tr=9000.0, te=115.0, ti=2250.0),  # a little before CSF's null: CSF is dark, not black
    "T1w": Pulse(tr=520.0, te=13.0),
    "T1ce": Pulse(tr=520.0, te=13.0),
    "T2w": Pulse(tr=4200.0, te=95.0),
    "PD": Pulse(tr=2800.0, te=18.0),
}
LESIONS = ("spot", "oedema", "enhancing", "core")  # their values vary twice as much between people
# How much of the texture a tissue shows: fluids are even, tumours uneven
ROUGHNESS = {"CSF": 0.3, "oedema": 2.0, "enhancing": 2.5, "core": 2.5}

SMALLER = 0.07  # people are smaller than the template by so much (log of the length)
MIDDLE = np.array([0.0, -18.0, 8.0])  # middle of the brain in MNI mm (x, y, z)
REACH = 130.0  # the smooth fields are defined up to so many mm from the middle
_ANATOMY, _TUMOUR, _TISSUE, _TEXTURE, _SURPRISE, _SCAN = range(6)  # one random stream each


_LIMITS = (("slices", 1, 64), ("size", 8, 512), ("depth", 2, 192), ("view", 40.0, 400.0))
_LIMITS += (("tumours", 0.0, 1.0), ("spots", 0.0, 0.2), ("surprises", 0.0, 20.0), ("deformation", 0.0, 6.0))
_LIMITS += (("jitter", 0.0, 0.3), ("texture", 0.0, 0.2), ("bias", 0.0, 1.0), ("noise", 0.0, 1.0))


@dataclass(frozen=True)
class Settings:
    """Knobs of the simulator. Lengths in mm, amplitudes relative."""

    contrasts: tuple[str, ...] = FOUR
    slices: int = 4  # axial slices a person, spread over the tumour
    size: int = 128  # pixels a side
    view: float = 192.0  # field of view; a pixel is view / size
    depth: int | None = None  # a volume of so many slices, a pixel apart, instead of separate slices
    tumours: float = 1.0  # share of people who have one
    spots: float = 0.012  # mean share of deep white matter that is hyperintense without being tumour
    surprises: float = 0.0  # mean number of spots a person that show in one contrast only
    deformation: float = 4.0  # standard deviation of the displacement
    jitter: float = 0.06  # relaxation times from person to person (standard deviation of the log)
    texture: float = 0.04  # tissue values from place to place
    bias: float = 0.12  # standard deviation of the log of the bias field
    noise: float = 0.02  # standard deviation of each channel, white matter being 1

    def __post_init__(self) -> None:
        names = tuple(self.contrasts)
        object.__setattr__(self, "contrasts", names)
        unknown = [n for n in names if n not in CONTRASTS]
        if unknown or not names or len(set(names)) < len(names):
            raise BookError(f"unknown or repeated contrast in {names}: choose from {', '.join(CONTRASTS)}")
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            if name == "depth" and value is None:
                continue
            whole = isinstance(low, int)
            kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                what = "a whole number" if whole else "a number"
                raise BookError(f"{name} is {value!r}: expected {what} from {low:g} to {high:g}")

    @property
    def pixel(self) -> float:
        """Side of a pixel in mm."""
        return self.view / self.size


@dataclass(frozen=True, eq=False)
class Tumour:
    """One tumour: ``centre`` (x, y, z) mm; ``radius`` of the core; ``axes`` (3, 3), rows the principal axes
    over their relative lengths; oedema reaches ``reach`` radii; the ``shell`` (a share of the radius)
    enhances if ``enhancing``, with ``gadolinium`` mM; ``fluid`` is how liquid the core is (0 solid, 1
    fluid); ``push`` is the strength of the mass effect, below 1."""

    centre: np.ndarray
    radius: float
    axes: np.ndarray
    reach: float
    shell: float
    enhancing: bool
    gadolinium: float
    fluid: float
    push: float


@dataclass(frozen=True, eq=False)
class Subject:
    """One simulated person; Z slices.

    ``images`` (M, Z, H, W) float32; ``labels`` (Z, H, W) 0, 1, 2, 4; ``mask`` (Z, H, W) bool, the brain;
    ``fractions`` (K, Z, H, W), shares of ``tissues`` (K names), which sum to 1 inside; ``bias`` (M, Z, H, W);
    ``surprise`` (Z, H, W), 1 + number of the contrast that alone shows a spot; ``heights`` (Z,) mm;
    ``tumour`` or None; ``row``, what the participants table says.
    """

    images: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    fractions: np.ndarray
    tissues: tuple[str, ...]
    bias: np.ndarray
    surprise: np.ndarray
    heights: np.ndarray
    tumour: Tumour | None
    row: dict


# -- smooth random functions of space ---------------------------------------------------------------------


def smooth_fields(
    rng: np.random.Generator, axes: Sequence[np.ndarray], *, width: float, n: int = 1
) -> np.ndarray:
    """``n`` Gaussian random fields of variance 1 on the grid of ``axes`` (z, y, x in mm): (n, Z, H, W).

    White noise on a lattice of spacing ``width``, blurred by a Gaussian of that standard deviation. The
    blur is separable and the grid regular, so a field costs three small matrix products: F = Kz N Ky^T
    Kx^T.
    """
    half = int(np.ceil((REACH + 2 * width) / width))
    nodes = np.arange(-half, half + 1) * width
    noise = rng.standard_normal((n, len(nodes), len(nodes), len(nodes)), dtype=np.float32)
    kernels = []
    for axis, middle in zip(axes, MIDDLE[::-1], strict=True):
        kernel = np.exp(-(((axis[:, None] - middle - nodes) / width) ** 2) / 2)
        kernels.append((kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32))
    Kz, Ky, Kx = kernels
    F = np.tensordot(noise, Kz, axes=(1, 1))  # (n, y, x, Z)
    F = np.tensordot(F, Ky, axes=(1, 1))  # (n, x, Z, H)
    F = np.tensordot(F, Kx, axes=(1, 1))  # (n, Z, H, W)
    return F


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


# -- anatomy ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=3)
def _template(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Tissue maps averaged over blocks of ``step`` voxels, and voxel coordinates of MNI (0, 0, 0)."""
    maps, affine = mri.tissue_maps()
    if step > 1:
        K, *shape = maps.shape
        cut = [n // step for n in shape]
        blocks = maps[:, : cut[0] * step, : cut[1] * step, : cut[2] * step]
        maps = blocks.reshape(K, cut[0], step, cut[1], step, cut[2], step).mean(axis=(2, 4, 6))
    origin = (-affine[:3, 3] - (step - 1) / 2) / step  # the template's axes are parallel to the world's
    return np.ascontiguousarray(maps), origin


@lru_cache(maxsize=1)
def _depth() -> np.ndarray:
    """Distance to the surface of the brain in mm, on the template in blocks of 3 voxels."""
    maps, _ = _template(3)
    return ndimage.distance_transform_edt(maps.sum(axis=0) > 0.5, sampling=3.0).astype(np.float32)


def _sample(values: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(values, voxel, order=1, cval=0.0)


@lru_cache(maxsize=1)
def _places() -> np.ndarray:
    """Where tumours may start, (n, 3) MNI mm: white matter of the cerebrum, 12 mm or more deep."""
    maps, affine = mri.tissue_maps()
    maps = maps[:, ::3, ::3, ::3]
    inside = ndimage.binary_erosion(maps.sum(axis=0) > 0.5, iterations=4)
    places = np.argwhere(inside & (maps[2] > 0.6)) * 3 + affine[:3, 3]
    return places[(places[:, 2] > -4) & (places[:, 2] < 46) & (np.abs(places[:, 0]) > 12)]


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation by ``angles`` (radians) about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _anatomy(rng, axes, tumour: Tumour | None, s: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Fractions (5, Z, H, W) of CSF, GM, WM, vessels, spots; and the displacement (3, Z, H, W) in mm."""
    matrix = _rotation(np.deg2rad(rng.normal(0, 3, 3))) * np.exp(rng.normal(SMALLER, 0.03, 3))
    # Two scales: the lobes, and the single gyrus. Both bend gently enough never to fold.
    lobe = smooth_fields(rng, axes, width=28.0, n=3) * s.deformation
    gyrus = smooth_fields(rng, axes, width=11.0, n=3) * s.deformation * 0.3
    gain = smooth_fields(rng, axes, width=9.0, n=3)
    fold, edge = smooth_fields(rng, axes, width=5.5, n=2)
    sheet, spot = smooth_fields(rng, axes, width=6.0, n=2)
    threshold = norm.isf(np.clip(s.spots * rng.exponential(), 1e-12, 0.2))
    z, y, x = np.meshgrid(*axes, indexing="ij")
    q = np.stack([x, y, z]).astype(np.float32)
    u = lobe + gyrus
    if tumour is not None:  # what is seen at q came from nearer the centre
        d = q - tumour.centre[:, None, None, None]
        u = u - tumour.push * d * np.exp(-(d**2).sum(axis=0) / (1.4 * tumour.radius) ** 2)
    centre = MIDDLE[:, None, None, None]
    p = np.tensordot(matrix, q + u - centre, axes=1) + centre
    step = 2 if s.pixel > 2.2 else 1
    maps, origin = _template(step)
    f = np.stack([_sample(m, p / step + origin[:, None, None, None]) for m in maps])
    depth = _sample(_depth(), p / 3 + _template(3)[1][:, None, None, None])  # mm below the surface
    brain = f.sum(axis=0) * _sigmoid((depth + 0.9 * edge - 1.0) / 0.35)  # skull stripping is never even
    # The template is an average of 152 people, in whom no two sulci coincide: its cortex has none. We fold
    # it: sheets of CSF lined with grey matter, down to some 16 mm.
    outer = _sigmoid((15 - depth) / 2.5) * np.clip(1 - 1.5 * f[0], 0, 1)
    csf = 0.9 * outer * np.exp(-((fold / 0.11) ** 2))
    gm = outer * np.exp(-((fold / 0.62) ** 2))
    wm = outer * (1 - np.exp(-((fold / 0.5) ** 2))) * _sigmoid((depth - 4.5) / 0.8)
    f = f**1.2 * np.exp(gain * np.array([0.45, 0.25, 0.25])[:, None, None, None])
    f = f / np.maximum(f.sum(axis=0), 1e-6)
    f = np.stack([f[0], f[1] + 0.75 * gm, f[2] * (1 - 0.75 * gm) + 0.8 * wm])
    f *= (1 - csf) / np.maximum(f.sum(axis=0), 1e-6)
    f[0] += csf
    vessel = 0.7 * f[0] * np.exp(-((sheet / 0.1) ** 2)) * _sigmoid((16 - depth) / 2.5)  # on the surface only
    spots = f[2] * _sigmoid((spot - threshold) / 0.08) * _sigmoid((depth - 11) / 1.5)
    f = np.concatenate([f, [vessel, spots]])
    f[0] -= vessel
    f[2] -= spots
    return (f * brain).astype(np.float32), u


# -- tumour -----------------------------------------------------------------------------------------------


def _draw_tumour(rng: np.random.Generator) -> Tumour:
    places = _places()
    enhancing = bool(rng.random() < 0.8)
    lengths = np.exp(rng.normal(0, 0.18, 3))
    return Tumour(
        centre=places[rng.integers(len(places))] + rng.uniform(-1.5, 1.5, 3),
        radius=float(rng.uniform(11, 25)),
        axes=_rotation(rng.uniform(0, np.pi, 3)) * (np.prod(lengths) ** (1 / 3) / lengths)[:, None],
        reach=float(rng.uniform(1.3, 2.3)),
        shell=float(rng.uniform(0.2, 0.6)),
        enhancing=enhancing,
        gadolinium=float(rng.uniform(0.15, 0.45)),
        fluid=float(rng.uniform(0.3, 1.0) if enhancing else rng.uniform(0.0, 0.35)),
        push=float(rng.uniform(0.15, 0.6)),
    )


def _grow(
    rng: np.random.Generator, axes: Sequence[np.ndarray], tumour: Tumour, f: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares (oedema, enhancing, core) of each voxel, each (Z, H, W), given healthy fractions ``f``."""
    rough, front = smooth_fields(rng, axes, width=0.6 * tumour.radius, n=2)
    (ragged,) = smooth_fields(rng, axes, width=4.0)
    (leak,) = smooth_fields(rng, axes, width=0.8 * tumour.radius)
    z, y, x = np.meshgrid(*axes, indexing="ij")
    d = np.stack([x, y, z]) - tumour.centre[:, None, None, None]
    r = np.sqrt((np.tensordot(tumour.axes, d, axes=1) ** 2).sum(axis=0)) / tumour.radius
    brain = np.maximum(f.sum(axis=0), 1e-3)
    csf, wm = (f[0] + f[3]) / brain, (f[2] + f[4]) / brain
    allowed = (f.sum(axis=0) > 0.5) * np.clip(1.4 - 1.4 * csf, 0, 1)  # nothing grows into CSF
    r_core = r * (1 + 0.17 * rough)
    core = _sigmoid((1 - r_core) / 0.08) * allowed
    edge = tumour.reach * (0.6 + 0.4 * wm) * (1 + 0.25 * front)  # farther along white matter
    oedema = _sigmoid((edge - r) / 0.14) * allowed * (1 - core) * np.clip(0.3 + wm, 0, 1)
    pieces, _ = ndimage.label((oedema > 0.35) | (core > 0.35), structure=np.ones((3, 3, 3)))
    kept = np.unique(pieces[core > 0.5])
    oedema = oedema * np.isin(pieces, kept[kept > 0])  # no islands
    inner = 1 - tumour.shell * np.clip(1 + 0.8 * ragged, 0.1, 2.2)
    shell = _sigmoid((r_core - inner) / 0.07) * _sigmoid((leak + 1.2) / 0.15)  # with gaps
    enhancing = core * shell if tumour.enhancing else np.zeros_like(core)
    return oedema, enhancing, core - enhancing


# -- signal -----------------------------------------------------------------------------------------------


def _scaled(x: float, log_factor: float) -> float:
    return float(x * np.exp(log_factor))


def tissue_signal(pulse: Pulse, tissue: Tissue, gadolinium: float = 0.0) -> float:
    """Signal of a tissue with ``gadolinium`` mM in it; T1 in ms, so r1 c is divided by 1000."""
    return mri.signal(pulse, replace(tissue, t1=1 / (1 / tissue.t1 + RELAXIVITY * gadolinium / 1000)))


def _sensitivity(pulse: Pulse, tissue: Tissue, gadolinium: float) -> tuple[float, float, float]:
    """dS / dlog(T1), dS / dlog(T2), dS / dlog(PD), by central differences."""
    h, changes = 0.02, []
    for name in ("t1", "t2", "pd"):
        up, down = (
            tissue_signal(pulse, replace(tissue, **{name: _scaled(getattr(tissue, name), step)}), gadolinium)
            for step in (h, -h)
        )
        changes.append((up - down) / (2 * h))
    return tuple(changes)


def _person_tissues(rng: np.random.Generator, tumour: Tumour | None, jitter: float) -> dict[str, Tissue]:
    """The tissue table of one person: every value drawn around the typical one, the core by its fluid."""
    table = {}
    for name, tissue in TISSUES.items():
        if name == "core" and tumour is not None:
            blend = {
                k: getattr(tissue, k) ** (1 - tumour.fluid) * getattr(FLUID, k) ** tumour.fluid
                for k in ("t1", "t2", "pd")
            }
            tissue = Tissue(**blend)
        a, b, c = rng.normal(0, jitter if name in LESIONS else jitter / 2, 3)
        table[name] = Tissue(_scaled(tissue.t1, a), _scaled(tissue.t2, b), _scaled(tissue.pd, c / 3))
    return table


def _images(
    f: np.ndarray, tissues: Mapping[str, Tissue], pulses: Mapping[str, Pulse], gd: Mapping[str, float],
    texture: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Signals (M, Z, H, W), white matter at 1: sum of fractions x signal, texture to first order.

    ``texture`` (3, Z, H, W): relative changes of T1, T2 and PD of a tissue of roughness 1.
    """
    images = np.empty((len(pulses), *f.shape[1:]), dtype=np.float32)
    rough = np.array([ROUGHNESS.get(k, 1.0) for k in tissues])
    for m, (name, pulse) in enumerate(pulses.items()):
        c = [gd.get(k, 0.0) if name == "T1ce" else 0.0 for k in tissues]
        S = np.array([tissue_signal(pulse, t, g) for t, g in zip(tissues.values(), c, strict=True)])
        dS = np.array([_sensitivity(pulse, t, g) for t, g in zip(tissues.values(), c, strict=True)])
        white = S[list(tissues).index("WM")]
        image = np.tensordot((S / white).astype(np.float32), f, axes=1)
        weights = (dS * rough[:, None] / white).astype(np.float32)  # (K, 3)
        image += (np.tensordot(weights.T, f, axes=1) * texture).sum(axis=0)
        images[m] = np.maximum(image, 0)
    return images


# -- one person -------------------------------------------------------------------------------------------


def _axes(s: Settings, tumour: Tumour | None, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Coordinates in MNI mm of the slices (z), rows (y, anterior first) and columns (x, left first)."""
    along = (np.arange(s.size) - (s.size - 1) / 2) * s.pixel
    drawn = rng.uniform(0, 40)
    if s.depth is not None:
        span = (s.depth - 1) * s.pixel
        middle = MIDDLE[2] if tumour is None else tumour.centre[2]
        room = max(0.0, (140 - span) / 2)  # the tumour is inside and the box stays over the brain
        middle = np.clip(middle, MIDDLE[2] - room, MIDDLE[2] + room)
        z = middle + (np.arange(s.depth) - (s.depth - 1) / 2) * s.pixel
    elif tumour is None:
        z = drawn + np.linspace(-1, 1, s.slices) * 15 if s.slices > 1 else np.array([drawn])
    else:
        half = 0.55 * tumour.radius * tumour.reach
        z = tumour.centre[2] + (np.linspace(-1, 1, s.slices) * half if s.slices > 1 else np.zeros(1))
    return z, MIDDLE[1] - along, MIDDLE[0] + along


def _surprises(
    rng: np.random.Generator, axes, healthy: np.ndarray, s: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Factors (M, Z, H, W) on the images, and which contrast (1 + number, 0 none) shows a spot where."""
    z, y, x = np.meshgrid(*axes, indexing="ij")
    factor = np.ones((len(s.contrasts), *healthy.shape), dtype=np.float32)
    where = np.zeros(healthy.shape, dtype=np.uint8)
    places = np.argwhere(healthy)
    for _ in range(rng.poisson(s.surprises)):
        spot, shown, sign = rng.random(), int(rng.integers(len(CONTRASTS))), rng.choice([-0.45, 0.6])
        radius = rng.uniform(2.5, 5.5)
        if len(places) == 0 or CONTRASTS[shown] not in s.contrasts:
            continue
        m = s.contrasts.index(CONTRASTS[shown])
        i, j, k = places[int(spot * len(places))]
        r = np.sqrt((z - axes[0][i]) ** 2 + (y - axes[1][j]) ** 2 + (x - axes[2][k]) ** 2)
        blob = _sigmoid((radius - r) / 0.7) * healthy
        factor[m] *= 1 + sign * blob
        where[blob > 0.5] = m + 1
    return factor, where


def _subject(index: int, seed: int, s: Settings) -> Subject:
    def stream(kind: int, *more: int) -> np.random.Generator:
        return np.random.default_rng([seed, index, kind, *more])

    rng = stream(_TUMOUR)
    sick = rng.random() < s.tumours
    tumour = _draw_tumour(rng) if sick else None
    axes = _axes(s, tumour, stream(_TUMOUR, 1))
    healthy, _ = _anatomy(stream(_ANATOMY), axes, tumour, s)
    brain = healthy.sum(axis=0)
    mask = brain > 0.5

    f = np.zeros((len(TISSUES), *brain.shape), dtype=np.float32)
    f[:5] = healthy
    labels = np.zeros(brain.shape, dtype=np.uint8)
    if tumour is not None:
        oedema, enhancing, core = _grow(stream(_TUMOUR, 2), axes, tumour, healthy)
        f[:5] *= np.clip(1 - oedema - enhancing - core, 0, 1)
        for k, share in zip((5, 6, 7), (oedema, enhancing, core), strict=True):
            f[k] = share * brain
        labels[(oedema > 0.5) & mask] = 2
        inside = (enhancing + core > 0.5) & mask
        labels[inside] = np.where(enhancing > core, 4, 1)[inside]

    rng = stream(_TISSUE)
    tissues = _person_tissues(rng, tumour, s.jitter)
    steps = {name: rng.normal(0, s.jitter / 2, 2) for name in CONTRASTS}
    steps["T1ce"] = steps["T1w"]  # the same protocol, before and after the contrast agent
    pulses = {
        name: replace(SEQUENCES[name], tr=_scaled(SEQUENCES[name].tr, a), te=_scaled(SEQUENCES[name].te, b))
        for name in s.contrasts
        for a, b in (steps[name],)
    }
    gadolinium = {**GADOLINIUM, "enhancing": 0.0 if tumour is None else tumour.gadolinium}
    texture = s.texture * smooth_fields(stream(_TEXTURE), axes, width=3.2, n=3)
    texture[2] *= 0.4  # proton density varies least
    clean = _images(f, tissues, pulses, gadolinium, texture)
    factor, surprise = _surprises(stream(_SURPRISE), axes, mask & (labels == 0), s)
    clean *= factor

    (shared,) = smooth_fields(stream(_SCAN), axes, width=45.0)
    window = np.clip((brain - 0.2) / 0.3, 0, 1)
    bias = np.empty_like(clean)
    images = np.empty_like(clean)
    for m, name in enumerate(s.contrasts):
        rng = stream(_SCAN, 1 + CONTRASTS.index(name))
        (own,) = smooth_fields(rng, axes, width=45.0)
        bias[m] = np.exp(s.bias * (0.6 * shared + 0.8 * own))
        level = s.noise * np.exp(rng.normal(0, 0.2))
        real, imaginary = level * rng.standard_normal((2, *brain.shape), dtype=np.float32)
        images[m] = np.hypot(clean[m] * bias[m] + real, imaginary) * window
    images[:, ~mask] = 0

    row = {"participant_id": f"sim-{index + 1:04d}", "tumour": sick}
    row |= {
        "enhancing": bool(sick and tumour.enhancing),
        "radius": round(tumour.radius, 1) if sick else 0.0,
        "fluid": round(tumour.fluid, 2) if sick else 0.0,
    }
    return Subject(images, labels, mask, f, tuple(TISSUES), bias, surprise, axes[0], tumour, row)


# -- many -------------------------------------------------------------------------------------------------


def _whole(name: str, value, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise BookError(f"{name} is {value!r}: expected a whole number from {low} up")
    return int(value)


def _settings(options: dict) -> Settings:
    known = [f.name for f in fields(Settings)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise BookError(f"unknown simulation setting {', '.join(unknown)}: choose from {', '.join(known)}")
    return Settings(**options)


def subject(index: int, *, seed: int = 0, **settings) -> Subject:
    """Person number ``index`` (from 0) of the cohort with this seed and these :class:`Settings`."""
    index, seed, options = _whole("index", index, 0), _whole("seed", seed, 0), _settings(settings)
    with threadpool_limits(1):
        return _subject(index, seed, options)


def cohort(n_subjects: int = 200, *, seed: int = 0, first: int = 0, **settings) -> Volumes:
    """Simulated people ``first`` to ``first + n_subjects - 1`` as :class:`~helpers.data.volumes.Volumes`.

    One row a slice, (S, M, H, W), or with ``depth`` one row a person, (S, M, D, H, W). Every person depends
    on (seed, number, settings) alone. ``extras["surprise"]`` marks spots that one contrast alone shows.
    """
    n, seed = _whole("n_subjects", n_subjects, 1), _whole("seed", seed, 0)
    first, s = _whole("first", first, 0), _settings(settings)
    with threadpool_limits(1):
        people = [_subject(index, seed, s) for index in range(first, first + n)]
    if s.depth is None:
        images = np.concatenate([p.images.swapaxes(0, 1) for p in people])  # (S * Z, M, H, W)
        labels, mask, surprise = (
            np.concatenate([getattr(p, k) for p in people]) for k in ("labels", "mask", "surprise")
        )
        rows = [
            {**p.row, "slice": i, "z": round(float(z), 1)} for p in people for i, z in enumerate(p.heights)
        ]
    else:
        images, labels, mask, surprise = (
            np.stack([getattr(p, k) for p in people]) for k in ("images", "labels", "mask", "surprise")
        )
        rows = [{**p.row, "slice": 0, "z": round(float(p.heights.mean()), 1)} for p in people]
    known = ", ".join(f"{k}={v}" for k, v in asdict(s).items())
    return Volumes.validate(
        images=images,
        labels=labels,
        mask=mask,
        contrasts=s.contrasts,
        participants=pd.DataFrame(rows),
        spacing=(s.pixel,) * (2 if s.depth is None else 3),
        label_names=BRATS_LABELS,
        regions=BRATS_REGIONS,
        extras={"surprise": surprise},
        provenance=Provenance(
            name="simulated tumours",
            source="helpers.simulate.tumours, on the ICBM 152 template bundled with nilearn",
            licence="MIT; the ICBM 152 template under its own permissive licence",
            citation="Fonov et al. 2011",
            notes=f"seed {seed}, people {first} to {first + n - 1}; {known}",
        ),
    )
