r"""A simulated cohort with fMRI and EEG of the same people: two runs each, eyes open and eyes closed.

The chain of one run, in Schaefer-100:

1. Log-covariance :math:`M_{s,c} = M_s + 0.1\,\gamma_f \sum_k u_{s,k} B_k + e_{eyes}\,c\,B_{Vis}`, where
   :math:`M_s` is the one of :mod:`helpers.simulate.bold` (group connectome, group, sex, age, site, person),
   :math:`B_k` is the block within network :math:`k` (Frobenius norm 10) and :math:`c` is 1 with eyes closed.
2. Slow activity :math:`x = \exp(M)^{1/2}` times 1/f noise, every half second.
3. BOLD: :math:`x` through the haemodynamic response, one frame every TR, plus a global signal, drift and
   white noise. (The two connectivity states of :mod:`helpers.simulate.bold` are left out.)
4. EEG sources: 1/f background and alpha bursts, whose amplitude in region :math:`r` of network :math:`k` is
   :math:`a_s\,e^{\gamma_e u_{s,k}}\,w_r^{focus}\,(1 + (\rho - 1) w_r c)\,e^{-\kappa_r x_r(t)}`, with
   :math:`w` 1 at the back and 0.15 at the front: alpha falls where BOLD is about to rise. Bursts spread over
   the person's own connectome with a lag from back to front, so that they survive orthogonalisation.
5. 64 electrodes through MNE's sphere (:mod:`helpers.simulate.eeg`), sensor noise, and back to the regions by
   minimum norm.

EEG can know a person's connectome in two ways. The shared factor :math:`u_s \sim N(0, I_7)` moves the
coupling within a network and its alpha amplitude together; and alpha spreads along the connectome itself
(``coherence``), which is the stronger of the two links. Without them, ``gamma_e=0, coherence=0``, nearly
nothing is shared (the rest goes through ``coupling``), and matching fMRI to EEG has nothing to learn.

Patients differ in three ways, so the modalities are only partly redundant: weaker coupling within Default (in
fMRI, and in EEG only as far as alpha spreads along it), weaker and slower alpha (EEG alone), and a lower mean
of :math:`u` in Default (both, with the same noise; ``shared_group_effect=0`` takes it away).

A person depends on (seed, index) and the settings alone, bit for bit. A cohort is kept on disk under
:func:`helpers.paths.cache_root`, under a name made of the settings and the code that made it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from scipy import fft
from threadpoolctl import threadpool_limits

from helpers.data.atlas import Atlas
from helpers.data.cohort import Provenance
from helpers.data.paired import RUNS, PairedCohort
from helpers.errors import BookError
from helpers.paths import cache_root
from helpers.simulate import bold, eeg

STREAM = 60_493  # keeps these random numbers apart from those of simulate.bold and simulate.eeg
STEP = 0.5  # seconds between values of the slow activity
LEAD = 32.0  # seconds of slow activity before the first frame: the length of the haemodynamic response
WAVE = 1.2  # radians that alpha lags at the front of the head behind the back
MOMENT = 1.0e-8  # A m, root-mean-square background of one region; half of a single EEG's, for alpha is strong
NANO = 1e9  # A m -> nA m
KEEP = 3  # simulated cohorts kept on disk


@dataclass(frozen=True)
class Settings:
    """Knobs. Effects on fMRI scale directions in the log-covariance, as in ``simulate.bold.Settings``."""

    n_frames: int = 150  # frames a run
    tr: float = 2.0  # seconds
    eeg_seconds: float = 20.0  # EEG is kept from the start of each run
    sfreq: float = 250.0  # Hz
    n_sites: int = 4
    group_effect: float = 0.09  # patients: weaker coupling within Default
    eeg_power_effect: float = 0.24  # patients: log amplitude of alpha is lower by this
    eeg_peak_effect: float = 0.35  # patients: alpha is slower by this, Hz
    eyes_effect: float = 0.06  # eyes closed: coupling within Vis
    reactivity: float = 2.6  # eyes closed: alpha amplitude at the back over that with eyes open
    shared_group_effect: float = 0.5  # patients: mean of the shared factor of Default is lower by this
    gamma_f: float = 1.0  # shared factor in fMRI
    gamma_e: float = 0.3  # shared factor in EEG
    coherence: float = 1.0  # alpha spreads over the person's own connectome (1) or the group's (0)
    coupling: float = 0.35  # kappa, slow activity on log alpha amplitude
    sex_effect: float = 0.07
    age_effect: float = 0.035  # per ten years
    site_effect: float = 0.125
    subject_sd: float = 0.13
    own_sd: float = 0.3
    snr: float = 1.2  # BOLD: sd of the signal / sd of the white noise
    global_sd: float = 0.25  # BOLD: sd of the global signal / sd of the signal
    amplitude: float = 0.7  # alpha / background, eyes open, at the back
    focus: float = 0.5  # 1: alpha falls steeply from the back to the front, 0: it is the same everywhere
    amplitude_sd: float = 0.35  # of its logarithm, between people
    peak_sd: float = 0.7  # Hz, between people
    sensor_noise: float = 0.5

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
            if not number or not np.isfinite(value):
                raise BookError(f"{f.name} is {value!r}: expected a number")
        for name, low, high in (
            ("n_frames", 20, 5000),
            ("tr", 0.3, 10.0),
            ("sfreq", 100.0, 1000.0),
            ("eeg_seconds", 4.0, self.n_frames * self.tr),
            ("n_sites", 1, bold.MAX_SITES),
            ("coherence", 0.0, 1.0),
            ("snr", 1e-3, np.inf),
            *((name, 0.0, np.inf) for name in ("subject_sd", "own_sd", "global_sd", "sensor_noise")),
            *((name, 0.0, np.inf) for name in ("amplitude", "amplitude_sd", "peak_sd", "reactivity")),
        ):
            if not low <= getattr(self, name) <= high:
                raise BookError(f"{name} is {getattr(self, name)!r}: expected {low:g} to {high:g}")
        for name in ("n_frames", "n_sites"):
            if not isinstance(getattr(self, name), (int, np.integer)):
                raise BookError(f"{name} is {getattr(self, name)!r}: expected a whole number")


@dataclass(frozen=True, eq=False)
class Truth:
    """Where the effects sit.

    ``group`` (R, R): what a patient's log-covariance gains for ``group_effect=1`` (negative: weaker);
    ``eyes`` (R, R), the same for closing the eyes; ``blocks`` (7, R, R), those of the shared factor;
    ``alpha`` (R,), strength of alpha; ``coupling`` (R,), sign and relative size of kappa.
    """

    atlas: Atlas
    group: np.ndarray
    eyes: np.ndarray
    blocks: np.ndarray
    alpha: np.ndarray
    coupling: np.ndarray


@dataclass(frozen=True, eq=False)
class PairedSubject:
    """One simulated person, run by run (eyes open, eyes closed).

    ``bold`` (2, R, T) float32; ``eeg`` (2, R, N) float16, nA m, in the regions, as the cohort keeps it;
    ``sensors`` (2, C, N) volts; ``neural`` (2, R, n) float32, slow activity every ``STEP`` seconds from the
    first frame on; ``covariance`` (2, R, R), true correlation of the slow activity; ``shared`` (7,), u_s;
    ``peak``, Hz; ``row``, the line in the participants table.
    """

    bold: np.ndarray
    eeg: np.ndarray
    sensors: np.ndarray
    neural: np.ndarray
    covariance: np.ndarray
    shared: np.ndarray
    peak: float
    row: dict
    info: mne.Info

    def raw(self, run: int) -> mne.io.RawArray:
        """The 64 electrodes of a run (0: eyes open, 1: eyes closed) for MNE."""
        raw = mne.io.RawArray(self.sensors[run], self.info.copy(), verbose="error")
        return raw.set_annotations(mne.Annotations(0.0, raw.times[-1], RUNS[run]), verbose="error")


@lru_cache(maxsize=1)
def truth() -> Truth:
    """Directions of the effects, for pictures and for :func:`subject`; do not write into them."""
    p = bold._population()
    networks = p.atlas.networks
    same = [np.outer(networks == k, networks == k).astype(float) for k in p.atlas.network_names]
    blocks = bold._direction(np.stack(same)) / np.sqrt(2)  # Frobenius norm 10
    visible = np.isin(networks, ["Vis", "SomMot", "DorsAttn"])
    return Truth(
        atlas=p.atlas,
        group=p.group,
        eyes=blocks[0],
        blocks=blocks,
        alpha=eeg.posterior_weight(p.atlas.coords),
        coupling=np.where(visible, 1.0, np.where(networks == "Default", -0.3, 0.3)).astype(np.float32),
    )


@lru_cache(maxsize=4)
def _response(n: int) -> np.ndarray:
    """Spectrum of the haemodynamic response for n steps."""
    kernel = bold.hrf(np.arange(0, LEAD, STEP))
    return fft.rfft(kernel / np.linalg.norm(kernel), n).astype(np.complex64)


def _slow(rng: np.random.Generator, root: np.ndarray, s: Settings) -> np.ndarray:
    """Slow activity (R, n) from LEAD seconds before the first frame on, unit variance."""
    n = int(np.ceil((LEAD + s.n_frames * s.tr) / STEP)) + 1
    return root.astype(np.float32) @ bold._coloured(rng, (len(root), n), STEP, 0.4, False)


def _frames(rng: np.random.Generator, slow: np.ndarray, s: Settings) -> np.ndarray:
    """BOLD (R, T) of slow activity."""
    R, n = slow.shape
    padded = fft.next_fast_len(n + int(LEAD / STEP), real=True)
    x = fft.irfft(fft.rfft(slow, padded) * _response(padded), padded)[:, :n]
    at = (LEAD + np.arange(s.n_frames) * s.tr) / STEP
    left = at.astype(int)
    weight = (at - left).astype(np.float32)
    x = x[:, left] * (1 - weight) + x[:, left + 1] * weight
    x /= x.std()
    T = s.n_frames
    x += bold._coloured(rng, (T,), s.tr, 1.0, False) * np.float32(s.global_sd * np.exp(rng.normal(0, 0.3)))
    x += rng.normal(0, 0.3, (R, 1)).astype(np.float32) * np.linspace(-1, 1, T, dtype=np.float32)
    x += rng.standard_normal((R, T), dtype=np.float32) / np.float32(s.snr)
    return x.astype(np.float32)


def _sources(
    rng: np.random.Generator,
    slow: np.ndarray,
    root: np.ndarray,
    amplitude: np.ndarray,
    peak: float,
    closed: int,
    s: Settings,
) -> np.ndarray:
    """EEG sources (R, N): background and alpha bursts that fall when ``slow`` rises."""
    t = truth()
    R, N = len(slow), round(s.eeg_seconds * s.sfreq)
    at = (LEAD + np.arange(N) / s.sfreq) / STEP
    left = at.astype(int)
    weight = (at - left).astype(np.float32)
    slow = slow[:, left] * (1 - weight) + slow[:, left + 1] * weight
    y = t.atlas.coords[:, 1].astype(float)
    lag = WAVE * (y - y.min()) / np.ptp(y)
    sources = eeg.background(rng, R, N, sfreq=s.sfreq)
    sources += eeg.alpha_sources(
        rng,
        t.atlas.coords,
        N,
        sfreq=s.sfreq,
        peak=peak,
        amplitude=amplitude[:, None].astype(np.float32),
        closed=float(closed),
        reactivity=s.reactivity,
        slow=slow,
        coupling=s.coupling * t.coupling,
        mixing=np.exp(-1j * lag)[:, None] * root,
    )
    return sources


def _subject(index: int, seed: int, s: Settings) -> PairedSubject:
    """The work behind :func:`subject` and :func:`cohort`; BLAS threads are limited by the caller."""
    p, t = bold._population(), truth()
    R = p.atlas.n_regions
    patient, site = index % 2, (index // 2) % s.n_sites
    rng = np.random.default_rng([seed, STREAM, index])
    sex = int(rng.integers(2))
    age = round(float(np.clip(rng.normal(30, 10), 16, 65)), 1)
    z = rng.standard_normal(len(p.directions))
    own = rng.standard_normal((R, R))
    shared = rng.standard_normal(len(t.blocks))
    shared[p.atlas.network_names.index("Default")] -= s.shared_group_effect * patient
    peak = 10.0 + s.peak_sd * rng.standard_normal() - s.eeg_peak_effect * patient
    strength = s.amplitude * np.exp(s.amplitude_sd * rng.standard_normal() - s.eeg_power_effect * patient)
    of_network = np.array(p.atlas.network_names)[:, None] == p.atlas.networks  # (7, R)
    amplitude = strength * np.exp(s.gamma_e * shared @ of_network) * t.alpha ** (s.focus - 1)
    M = (
        p.log_mean
        + s.group_effect * patient * p.group
        + s.sex_effect * (sex - 0.5) * p.sex
        + s.age_effect * (age - 30) / 10 * p.age
        + s.site_effect * p.site[site]
        + s.subject_sd * 2 / np.sqrt(len(z)) * np.tensordot(z, p.directions, 1)
        + s.own_sd / np.sqrt(2 * R) * (own + own.T)
        + 0.1 * s.gamma_f * np.tensordot(shared, t.blocks, 1)
    )
    fwd = eeg.forward(p.atlas.coords, sfreq=float(s.sfreq))
    runs = []
    for closed in (0, 1):
        log_covariance = M + s.eyes_effect * closed * t.eyes
        root = spread = bold._root(log_covariance)
        if s.coherence < 1:
            spread = bold._root(p.log_mean + s.coherence * (log_covariance - p.log_mean))
        fast = np.random.default_rng([seed, STREAM, index, 2 * closed + 2])  # EEG settings leave BOLD alone
        rng = np.random.default_rng([seed, STREAM, index, 2 * closed + 1])
        slow = _slow(rng, root, s)
        frames = _frames(rng, slow, s)
        sources = _sources(fast, slow, spread, amplitude, peak, closed, s)
        sensors = eeg.sense(sources, fwd, rng=fast, noise=s.sensor_noise, moment=MOMENT)
        regions = (eeg.back_project(sensors, fwd) * NANO).astype(np.float16)
        runs.append((frames, regions, sensors, slow[:, int(LEAD / STEP) :], root @ root.T))
    row = {
        "participant_id": f"sub-{index + 1:04d}",
        "age": age,
        "sex": "FM"[sex],
        "site": f"site-{site + 1}",
        "group": ("control", "patient")[patient],
    }
    return PairedSubject(*(np.stack(part) for part in zip(*runs, strict=True)), shared, peak, row, fwd.info)


def contaminate(
    raw: mne.io.BaseRaw,
    *,
    seed: int = 0,
    noisy: str = "T8",
    blinks: int = 4,
    muscle: int = 1,
    line: float = 50.0,
) -> mne.io.BaseRaw:
    """A copy with what simulated EEG lacks, in plausible sizes, to practise cleaning on.

    One channel of bad contact (``noisy``, 60 uV of white noise); ``blinks`` of 250 uV over the forehead;
    ``muscle`` bursts (20-90 Hz, 60 uV, 2 s) on the left; mains hum at ``line`` Hz everywhere (5 uV).
    """
    raw = raw.copy().load_data(verbose="error")
    if noisy not in raw.ch_names:
        raise BookError(f"contaminate: no channel {noisy!r} in the recording")
    rng = np.random.default_rng([seed, STREAM, 1])
    x, sfreq, N = raw.get_data(), raw.info["sfreq"], raw.n_times
    where = np.array([channel["loc"][:3] for channel in raw.info["chs"]])
    front = np.exp((where[:, 1] - where[:, 1].max()) / 0.03)  # fades within centimetres
    left = np.exp((where[:, 0].min() - where[:, 0]) / 0.03)
    times = np.arange(N) / sfreq
    for start in rng.uniform(0.5, times[-1] - 0.5, blinks):
        x += 250e-6 * front[:, None] * np.exp(-(((times - start) / 0.1) ** 2))
    for start in rng.uniform(0, times[-1] - 2, muscle):
        burst = eeg.coloured_noise(rng, (len(x), N), exponent=0.0, sfreq=sfreq, lowest=20.0)
        x += 60e-6 * left[:, None] * burst * ((times >= start) & (times < start + 2))
    x += 5e-6 * np.sin(2 * np.pi * line * times)
    x[raw.ch_names.index(noisy)] += 60e-6 * rng.standard_normal(N)
    return mne.io.RawArray(x, raw.info, verbose="error").set_annotations(raw.annotations, verbose="error")


def _options(settings: dict) -> Settings:
    known = [f.name for f in fields(Settings)]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise BookError(f"unknown simulation setting {', '.join(unknown)}: choose from {', '.join(known)}")
    return Settings(**settings)


def subject(index: int, *, seed: int = 0, **settings) -> PairedSubject:
    """Subject number ``index`` (from 0) of the cohort with this seed and these settings, with its truth.

    The series are bit-identical to those in the cohort; ``settings`` are the fields of :class:`Settings`.
    """
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or index < 0:
        raise BookError(f"index is {index!r}: expected a whole number from 0 up")
    with threadpool_limits(1):
        return _subject(int(index), bold._seed(seed), _options(settings))


def cohort(n_subjects: int = 200, *, seed: int = 0, cache: bool = True, **settings) -> PairedCohort:
    """A simulated paired cohort, Schaefer-100; made once, then read from the disk.

    Every second person is a patient and sites take turns in pairs, so any first part is balanced. EEG is a
    memory map; ``cache=False`` keeps everything in memory and writes nothing. A cohort on disk that is
    damaged is made again.
    """
    if isinstance(n_subjects, bool) or not isinstance(n_subjects, (int, np.integer)) or n_subjects < 1:
        raise BookError(f"n_subjects is {n_subjects!r}: expected a whole number from 1 up")
    seed, options = bold._seed(seed), _options(settings)
    if not cache:
        return _simulate(int(n_subjects), seed, options, None)
    root = cache_root() / "simulated"
    name = f"paired-{_key(seed, options)}"
    for folder in sorted(root.glob(f"{name}-*"), key=_size):
        if _size(folder) >= n_subjects:
            try:
                found = PairedCohort.open(folder)
            except BookError as error:
                print(f"the cohort on disk is not usable and is made again: {error}")
                shutil.rmtree(folder, ignore_errors=True)
                continue
            os.utime(folder)
            return found if len(found) == n_subjects else found.select(slice(int(n_subjects)))
    return _build(root / f"{name}-{n_subjects}", int(n_subjects), seed, options)


def _build(folder: Path, n_subjects: int, seed: int, options: Settings) -> PairedCohort:
    """Simulate into a scratch folder, which then takes its name; in memory where nothing can be written."""
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    needed = 2.5 * n_subjects * len(RUNS) * 100 * (2 * options.eeg_seconds * options.sfreq)
    try:
        scratch.mkdir(parents=True)
        if shutil.disk_usage(scratch).free < needed:
            raise OSError(errno.ENOSPC, f"less than {needed / 1e9:.1f} GB free")
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        print(f"not kept on disk, {folder.parent} cannot be written to ({error.strerror}): set BOOK_CACHE")
        return _simulate(n_subjects, seed, options, None)
    try:
        people = _simulate(n_subjects, seed, options, scratch / "eeg.npy")
        people.finish(scratch)
        try:
            os.rename(scratch, folder)
        except OSError:  # somebody else finished the same cohort first, or it cannot be renamed
            if not folder.is_dir():
                raise
    except OSError as error:
        told = error.strerror or error
        raise BookError(f"cannot keep the cohort in {folder.parent} ({told}): set BOOK_CACHE") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _tidy(folder.parent)
    return PairedCohort.open(folder)


def _simulate(n_subjects: int, seed: int, s: Settings, path: Path | None) -> PairedCohort:
    """The cohort, with EEG in memory, or in the file ``path``."""
    R, N = bold._population().atlas.n_regions, round(s.eeg_seconds * s.sfreq)
    shape = (n_subjects, len(RUNS), R, N)
    if path is None:
        signals = np.empty(shape, np.float16)
    else:
        signals = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    series = np.empty((n_subjects, len(RUNS), R, s.n_frames), np.float32)
    rows = []
    with threadpool_limits(1):
        for index in range(n_subjects):
            person = _subject(index, seed, s)
            series[index], signals[index] = person.bold, person.eeg
            rows.append(person.row)
    if path is not None:
        signals.flush()
    return PairedCohort(
        bold=series,
        eeg=signals,
        n_frames=s.n_frames,
        n_samples=N,
        tr=s.tr,
        sfreq=float(s.sfreq),
        participants=pd.DataFrame(rows),
        atlas=bold._population().atlas,
        provenance=Provenance(
            name="simulated, fMRI and EEG",
            source="helpers.simulate.paired, around the group-mean HCP connectome (Schaefer-100)",
            licence="MIT; the HCP group connectome under the WU-Minn HCP open access data use terms",
            citation="Van Essen et al. 2013; Schaefer et al. 2018; Vos de Wael et al. 2020",
            notes=f"seed {seed}; " + ", ".join(f"{k}={v}" for k, v in asdict(s).items()),
        ),
    )


@lru_cache(maxsize=1)
def _code() -> str:
    """Hash of everything but the settings that decides the numbers."""
    digest = hashlib.sha256(f"numpy {np.__version__}, mne {mne.__version__}".encode())
    for name in ("simulate/paired.py", "simulate/bold.py", "simulate/eeg.py", "assets/schaefer100.npz"):
        digest.update((files("helpers") / name).read_bytes())
    return digest.hexdigest()


def _key(seed: int, s: Settings) -> str:
    text = json.dumps({"seed": seed, "code": _code(), **asdict(s)}, sort_keys=True, default=float)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _size(folder: Path) -> int:
    """Subjects in a cached folder, by its name."""
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def _tidy(root: Path) -> None:
    """Remove all but the last few cohorts used; readers of a removed one keep their open files."""
    folders = [f for f in root.glob("paired-*-*") if f.is_dir()]
    for folder in sorted(folders, key=lambda f: f.stat().st_mtime, reverse=True)[KEEP:]:
        shutil.rmtree(folder, ignore_errors=True)
