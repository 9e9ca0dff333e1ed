r"""A simulated resting-state cohort around the real group connectome.

The log-covariance of subject :math:`s` with group :math:`y`, sex :math:`g`, age :math:`a` and site :math:`k`
is

.. math:: M_s = \log C_{HCP} + \delta\,y\,B_{group} + e_{sex}\,(g - \tfrac12)\,B_{sex}
          + e_{age}\,\tfrac{a - 30}{10}\,B_{age} + e_{site}\,B_{site,k}
          + \sigma_{subject} \sum_j \tfrac{2 z_{sj}}{\sqrt J} B_j + \sigma_{own}\,E_s

with symmetric directions :math:`B` of length 10 over the edges (upper triangle) and a random symmetric matrix
:math:`E_s`. Adding in the log keeps every covariance positive definite. Two connectivity states,
:math:`C_{\pm} = \exp(M_s \pm \sigma_{state} B_{state})` brought to unit variance, take turns and each lasts
half of the run in total, in everybody: the time-averaged covariance is :math:`\bar C_s = (C_+ + C_-)/2`
however often the states switch.

- ``group_effect`` moves the within-Default coupling of patients: static FC sees it.
- ``dwell_effect`` shortens the patients' mean stay in a state: only the dynamics see it.

BOLD is Gaussian noise with a 1/f spectrum passed through a haemodynamic response, mixed by the state's
covariance, plus a global signal, a linear drift and white noise. The states are switched after the
haemodynamic filter, on purpose: switching before it would mix the two states at each border, and the average
covariance would then depend on the switching rate.

Directions, networks and sites belong to the simulated population and are the same for every seed; the seed
draws the people. Each subject depends on (seed, index) and the settings alone, not on the size of the cohort,
so that any one can be made again by itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import fft, linalg
from threadpoolctl import threadpool_limits

from helpers.data.atlas import group_fc, schaefer
from helpers.data.cohort import Atlas, Cohort, Provenance
from helpers.errors import BookError

POPULATION = 20210  # seed of what all simulated people share
DWELL = 60.0  # mean stay in a connectivity state, seconds, where dwell_effect is 0
N_DIRECTIONS = 12  # J
MAX_SITES = 8


@dataclass(frozen=True)
class Settings:
    """Knobs of the simulator. Effects scale directions in the log-covariance."""

    n_frames: int | tuple[int, int] = 240  # frames a run; a pair (low, high) draws each subject's length
    tr: float = 2.0  # seconds
    n_sites: int = 4
    group_effect: float = 0.10  # patients: weaker coupling within Default
    dwell_effect: float = 0.0  # patients: mean stay in a state is DWELL * exp(-dwell_effect)
    sex_effect: float = 0.07
    age_effect: float = 0.035  # per ten years
    site_effect: float = 0.125
    subject_sd: float = 0.13  # individual differences that follow the networks
    own_sd: float = 0.3  # individual differences that follow nothing
    state_sd: float = 0.18  # how far the two states lie from their mean
    snr: float = 1.2  # sd of the signal / sd of the white noise
    global_sd: float = 0.25  # sd of the global signal / sd of the signal

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.name == "n_frames":
                continue
            value = getattr(self, f.name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float, np.integer, np.floating))
                or not np.isfinite(value)
            ):
                raise BookError(f"{f.name} is {value!r}: expected a number")
        lengths = np.atleast_1d(self.n_frames)
        if (
            lengths.dtype.kind not in "iu"
            or lengths.size > 2
            or lengths.min() < 20
            or lengths[0] > lengths[-1]
        ):
            raise BookError(
                f"n_frames is {self.n_frames!r}: expected a whole number from 20 up, or a pair (low, high)"
            )
        if self.tr <= 0:
            raise BookError(f"tr is {self.tr!r}: expected seconds above 0")
        if not isinstance(self.n_sites, (int, np.integer)) or not 1 <= self.n_sites <= MAX_SITES:
            raise BookError(f"n_sites is {self.n_sites!r}: expected a whole number from 1 to {MAX_SITES}")
        for name in ("subject_sd", "own_sd", "state_sd", "global_sd"):
            if getattr(self, name) < 0:
                raise BookError(f"{name} is {getattr(self, name)!r}: expected 0 or more")
        if self.snr <= 0:
            raise BookError(f"snr is {self.snr!r}: expected a number above 0")


@dataclass(frozen=True, eq=False)
class Truth:
    """Directions of the effects in the log-covariance, for pictures.

    Each is (R, R), symmetric, of length 10 over the edges, with a zero diagonal.

    ``group`` is what a patient gains for ``group_effect=1`` (negative: weaker); ``site`` is (n_sites, R, R).
    """

    atlas: Atlas
    group: np.ndarray
    sex: np.ndarray
    age: np.ndarray
    site: np.ndarray
    state: np.ndarray
    group_network: str = "Default"


@dataclass(frozen=True, eq=False)
class Subject:
    """One simulated person.

    ``bold`` (R, T) float32; ``covariance`` (R, R), the true time-averaged covariance of the signal (unit
    diagonal, before the global signal, drift and noise); ``states`` (2, R, R), the covariance in each state;
    ``occupancy`` (T,), share of the first state in each frame, mean 0.5; ``row``, the line in the
    participants table.
    """

    bold: np.ndarray
    covariance: np.ndarray
    states: np.ndarray
    occupancy: np.ndarray
    row: dict


@dataclass(frozen=True, eq=False)
class _Population:
    atlas: Atlas
    log_mean: np.ndarray  # (R, R)
    group: np.ndarray
    sex: np.ndarray
    age: np.ndarray
    site: np.ndarray  # (MAX_SITES, R, R)
    state: np.ndarray
    directions: np.ndarray  # (J, R, R)


def _direction(matrix: np.ndarray) -> np.ndarray:
    """Symmetric part with zero diagonal, scaled to length 10 over the edges (upper triangle)."""
    matrix = matrix + np.swapaxes(matrix, -1, -2)
    index = np.arange(matrix.shape[-1])
    matrix[..., index, index] = 0
    return 10 * np.sqrt(2) * matrix / np.linalg.norm(matrix, axis=(-1, -2), keepdims=True)


@lru_cache(maxsize=2)
def _population(n_regions: int = 100) -> _Population:
    atlas = schaefer(n_regions)
    names = np.array(atlas.network_names)
    member = (atlas.networks[:, None] == names).astype(float)  # (R, 7)

    def block(a: str, b: str) -> np.ndarray:
        return _direction(np.outer(atlas.networks == a, atlas.networks == b).astype(float))

    rng = np.random.default_rng([POPULATION, n_regions])
    by_network = rng.standard_normal((N_DIRECTIONS, 7, 7))
    profile = (
        0.5 * rng.standard_normal((MAX_SITES, n_regions)) + rng.standard_normal((MAX_SITES, 7)) @ member.T
    )
    with threadpool_limits(1):
        values, vectors = linalg.eigh(group_fc(n_regions))
        values = np.log(np.maximum(values, 0.02 * values.mean()))  # the smallest are noise: floor them
        log_mean = (vectors * values) @ vectors.T
        directions = _direction(member @ by_network @ member.T)
    return _Population(
        atlas=atlas,
        log_mean=log_mean,
        group=-block("Default", "Default"),
        sex=_direction(block("SomMot", "Limbic") - block("Cont", "Cont")),
        age=block("Default", "SalVentAttn"),
        site=_direction(profile[:, :, None] * profile[:, None, :]),
        state=_direction(block("Default", "DorsAttn") - block("Cont", "Default")),
        directions=directions,
    )


def truth(n_sites: int = 4) -> Truth:
    """Where the effects sit (the group effect: within Default)."""
    p = _population()
    return Truth(p.atlas, p.group.copy(), p.sex.copy(), p.age.copy(), p.site[:n_sites].copy(), p.state.copy())


def hrf(times: np.ndarray) -> np.ndarray:
    """Haemodynamic response at ``times`` (seconds) after a brief event: peak near 5 s, undershoot near 15 s.

    Difference of two gamma densities (Friston 1998).
    """
    from scipy.stats import gamma

    return gamma.pdf(times, 6) - gamma.pdf(times, 16) / 6


@lru_cache(maxsize=16)
def _spectrum(n: int, tr: float, exponent: float, haemodynamic: bool) -> np.ndarray:
    """Amplitude at the n // 2 + 1 frequencies of a run of n frames, scaled to unit variance in time."""
    frequency = fft.rfftfreq(n, tr)
    amplitude = np.zeros(len(frequency))
    amplitude[1:] = np.maximum(frequency[1:], 0.005) ** (-exponent / 2)
    if haemodynamic:
        times = np.arange(0, 32, 0.1)
        amplitude[1:] *= np.abs(np.exp(-2j * np.pi * frequency[1:, None] * times) @ hrf(times))
    weight = np.full(len(frequency), 2.0)
    weight[-1] = 2.0 if n % 2 else 1.0
    return (amplitude * n / np.sqrt((weight * amplitude**2).sum())).astype(np.float32)


def _coloured(
    rng: np.random.Generator, shape: tuple[int, ...], tr: float, exponent: float, haemodynamic: bool
) -> np.ndarray:
    """Gaussian noise with a 1/f^exponent spectrum, unit variance, along the last axis, float32.

    Twenty frames more are made and cut off, so that the end of the run does not wrap round to its beginning.
    """
    *rest, T = shape
    n = fft.next_fast_len(T + 20, real=True)
    amplitude = _spectrum(n, float(tr), exponent, haemodynamic)
    z = rng.standard_normal((*rest, len(amplitude), 2), dtype=np.float32) * np.float32(np.sqrt(0.5))
    z[..., 0, 1] = 0
    if n % 2 == 0:
        z[..., -1, 0] *= np.float32(np.sqrt(2.0))
        z[..., -1, 1] = 0
    return fft.irfft(z.view(np.complex64)[..., 0] * amplitude, n, axis=-1)[..., :T]


def _occupancy(rng: np.random.Generator, T: int, tr: float, dwell: float) -> np.ndarray:
    """Share of each frame spent in the first state, (T,), mean exactly 1/2.

    Stays are gamma-distributed (shape 3) with mean ``dwell`` seconds; the stays in either state are then
    scaled to fill half the run.
    """
    run = T * tr
    n = max(2, 2 * round(run / dwell / 2))
    stays = rng.gamma(3.0, size=n)
    for state in (0, 1):
        stays[state::2] *= run / 2 / stays[state::2].sum()
    first = int(rng.integers(2))
    inside = np.where(np.arange(n) % 2 == first, stays, 0.0)
    edges = np.concatenate([[0.0], np.cumsum(stays)])
    spent = np.concatenate([[0.0], np.cumsum(inside)])  # seconds in the first state until each border
    frames = np.interp(np.arange(T + 1) * tr, edges, spent)
    share = np.diff(frames) / tr
    # Soften the borders; on a circle, so that the mean stays 1/2.
    share = (np.roll(share, -1) + 2 * share + np.roll(share, 1)) / 4
    return np.clip(share, 0, 1)


def _root(log_covariance: np.ndarray) -> np.ndarray:
    """A with A A^T = exp(log_covariance) brought to unit diagonal.

    It starts from the symmetric root, which does not depend on the signs of the eigenvectors.
    """
    values, vectors = linalg.eigh(log_covariance, check_finite=False, driver="evd")
    root = (vectors * np.exp(values / 2)) @ vectors.T
    return root / np.linalg.norm(root, axis=1, keepdims=True)


def _subject(index: int, seed: int, s: Settings) -> Subject:
    """The work behind :func:`subject` and :func:`cohort`; BLAS threads are limited by the caller."""
    p = _population()
    R = p.atlas.n_regions
    rng = np.random.default_rng([seed, index])
    patient, site = index % 2, (index // 2) % s.n_sites
    sex = int(rng.integers(2))
    age = round(float(np.clip(rng.normal(30, 10), 16, 65)), 1)
    low, high = np.atleast_1d(s.n_frames)[[0, -1]]
    T = int(rng.integers(low, high + 1))
    z = rng.standard_normal(N_DIRECTIONS)
    own = rng.standard_normal((R, R))
    M = (
        p.log_mean
        + s.group_effect * patient * p.group
        + s.sex_effect * (sex - 0.5) * p.sex
        + s.age_effect * (age - 30) / 10 * p.age
        + s.site_effect * p.site[site]
        + s.subject_sd * 2 / np.sqrt(N_DIRECTIONS) * np.tensordot(z, p.directions, 1)
        + s.own_sd / np.sqrt(2 * R) * (own + own.T)
    )
    roots = np.stack([_root(M + sign * s.state_sd * p.state) for sign in (1, -1)])
    share = _occupancy(rng, T, s.tr, DWELL * np.exp(-s.dwell_effect * patient))
    weights = np.sqrt(np.stack([share, 1 - share])).astype(np.float32)
    x = _coloured(rng, (2, R, T), s.tr, 0.4, True)
    x = np.einsum("krt,kt->rt", roots.astype(np.float32) @ x, weights)
    x += _coloured(rng, (T,), s.tr, 1.0, False) * np.float32(s.global_sd * np.exp(rng.normal(0, 0.3)))
    x += rng.normal(0, 0.3, (R, 1)).astype(np.float32) * np.linspace(-1, 1, T, dtype=np.float32)
    x += rng.standard_normal((R, T), dtype=np.float32) / np.float32(s.snr)
    states = roots @ np.swapaxes(roots, 1, 2)
    row = {
        "participant_id": f"sub-{index + 1:04d}",
        "age": age,
        "sex": "FM"[sex],
        "site": f"site-{site + 1}",
        "group": ("control", "patient")[patient],
    }
    return Subject(bold=x, covariance=states.mean(axis=0), states=states, occupancy=share, row=row)


def _seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise BookError(f"seed is {seed!r}: expected a whole number from 0 up")
    return int(seed)


def _settings(options: dict) -> Settings:
    known = [f.name for f in fields(Settings)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise BookError(f"unknown simulation setting {', '.join(unknown)}: choose from {', '.join(known)}")
    return Settings(**options)


def subject(index: int, *, seed: int = 0, **settings) -> Subject:
    """Subject number ``index`` (from 0) of the cohort with this seed and these settings, with its truth.

    The series are bit-identical to those in the cohort; ``settings`` are the fields of :class:`Settings`.
    """
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or index < 0:
        raise BookError(f"index is {index!r}: expected a whole number from 0 up")
    with threadpool_limits(1):
        return _subject(int(index), _seed(seed), _settings(settings))


def cohort(n_subjects: int = 200, *, seed: int = 0, **settings) -> Cohort:
    """A simulated cohort, Schaefer-100: bold (S, 100, T) float32.

    Every second person is a patient and sites take turns in pairs, so any first part of a cohort is balanced;
    sex and age are drawn. ``settings`` are the fields of :class:`Settings`: ``n_frames``, ``tr``,
    ``n_sites``, ``group_effect``, ``dwell_effect``, ...
    """
    if isinstance(n_subjects, bool) or not isinstance(n_subjects, (int, np.integer)) or n_subjects < 1:
        raise BookError(f"n_subjects is {n_subjects!r}: expected a whole number from 1 up")
    seed, options = _seed(seed), _settings(settings)
    with threadpool_limits(1):
        people = [_subject(index, seed, options) for index in range(n_subjects)]
    return Cohort.validate(
        bold=[person.bold for person in people],
        participants=pd.DataFrame([person.row for person in people]),
        tr=options.tr,
        atlas=_population().atlas,
        provenance=Provenance(
            name="simulated",
            source="helpers.simulate.bold, around the group-mean HCP connectome (Schaefer-100)",
            licence="MIT; the HCP group connectome under the WU-Minn HCP open access data use terms",
            citation="Van Essen et al. 2013; Schaefer et al. 2018; Vos de Wael et al. 2020",
            notes=f"seed {seed}; " + ", ".join(f"{k}={v}" for k, v in asdict(options).items()),
        ),
    )
