"""EEG of one subject from physics that ships with MNE: cortical sources, a sphere for a head, 64 electrodes.

The chain is ``sources -> sensors``. Each piece is a function, so a cohort can reuse it with its own sources:

    forward(coords)          gain (C, R) in V/(A m) of one radial dipole a region, average reference
    background(...)          1/f source activity (R, N)
    alpha_sources(...)       alpha bursts (R, N), strongest at the back of the head, stronger with eyes closed
    sense(sources, fwd, ...) electrodes (C, N) in volts
    recording(coords, ...)   all of it, as an ``mne.io.RawArray`` with eyes-open and eyes-closed annotations
    back_project(eeg, fwd)   minimum-norm estimate of the sources (R, N)

Sources are dipole moments in ampere metres, electrodes are volts, time is seconds. Everything is offline.
Sphere model: Berg & Scherg (1994), as implemented in MNE-Python. Region coordinates are MNI millimetres and
are read as fsaverage's MRI coordinates, which differ from them by a few millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import mne
import numpy as np

from helpers.errors import BookError

CHANNELS: tuple[str, ...] = tuple(
    "Fp1 Fpz Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 "
    "T7 C5 C3 C1 Cz C2 C4 C6 T8 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P9 P7 P5 P3 P1 Pz P2 P4 P6 P8 P10 "
    "PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz".split()
)
OCCIPITAL: tuple[str, ...] = ("O1", "Oz", "O2", "POz")
SFREQ = 200.0  # Hz
MOMENT = 2.0e-8  # A m, root-mean-square broadband moment of one region
EYES_OPEN, EYES_CLOSED = "eyes open", "eyes closed"
_INNER_SKULL = 0.92  # dipoles are kept below this fraction of the innermost radius
_BURST_RATE = 10.0  # Hz, sampling of the slow alpha envelope before it is interpolated


@dataclass(frozen=True)
class Forward:
    """How regions are seen by electrodes.

    gain: (C, R) V/(A m), average reference, one dipole a region, pointing outwards.
    info: MNE measurement info with names, sampling rate and electrode positions.
    coords: (R, 3) mm, as given.
    """

    gain: np.ndarray
    info: mne.Info
    coords: np.ndarray


def montage() -> mne.channels.DigMontage:
    """The 10-05 electrode positions on the Colin-27 head (called ``standard_1005`` in older MNE)."""
    names = mne.channels.get_builtin_montages()
    return mne.channels.make_standard_montage("colin27_1005" if "colin27_1005" in names else "standard_1005")


def forward(coords: np.ndarray, *, sfreq: float = SFREQ, channels: tuple[str, ...] = CHANNELS) -> Forward:
    """Gain of a radial dipole at each of ``coords`` (R, 3) mm MNI, in MNE's four-shell sphere.

    Cortical current flows at right angles to the cortex; with one dipole a region the nearest honest choice
    is radial. A region outside the inner shell is moved along its radius to just inside it.
    """
    coords = np.asarray(coords, dtype=np.float64)
    if coords.ndim != 2 or coords.shape[1] != 3 or not np.isfinite(coords).all():
        raise BookError(
            f"forward: coords must be finite (R, 3) millimetres, got shape {coords.shape}; "
            "use an atlas with coordinates."
        )
    gain, info = _forward(coords.tobytes(), len(coords), float(sfreq), tuple(channels))
    return Forward(gain=gain, info=info.copy(), coords=coords)


@lru_cache(maxsize=8)
def _forward(
    coords: bytes, n_regions: int, sfreq: float, channels: tuple[str, ...]
) -> tuple[np.ndarray, mne.Info]:
    info = mne.create_info(list(channels), sfreq, "eeg", verbose="error")
    info.set_montage(montage(), verbose="error")
    sphere = mne.make_sphere_model("auto", "auto", info, verbose="error")

    head_from_mri = mne.transforms.invert_transform(mne.read_trans(_fsaverage_trans(), verbose="error"))
    positions = np.frombuffer(coords).reshape(n_regions, 3) / 1000.0  # mm -> m
    offset = mne.transforms.apply_trans(head_from_mri, positions) - sphere["r0"]
    radius = np.linalg.norm(offset, axis=1, keepdims=True)
    normals = offset / radius
    depth = np.minimum(radius, _INNER_SKULL * sphere["layers"][0]["rad"])
    source = mne.setup_volume_source_space(
        pos={"rr": sphere["r0"] + depth * normals, "nn": normals}, sphere=sphere, verbose="error"
    )
    solution = mne.make_forward_solution(info, None, source, sphere, meg=False, eeg=True, verbose="error")
    used = solution["src"][0]["vertno"]
    if len(used) != n_regions:
        raise BookError(f"forward: MNE kept {len(used)} of {n_regions} dipoles; some lie outside the head.")
    leadfield = solution["sol"]["data"].reshape(len(channels), n_regions, 3)  # (C, R, xyz)
    gain = np.einsum("crk,rk->cr", leadfield, normals)
    gain -= gain.mean(axis=0)  # average reference
    gain.flags.writeable = False
    return gain, info


def _fsaverage_trans() -> Path:
    return Path(mne.__file__).parent / "data" / "fsaverage" / "fsaverage-trans.fif"


def coloured_noise(
    rng: np.random.Generator, shape: tuple[int, ...], *, exponent: float, sfreq: float, lowest: float = 0.5
) -> np.ndarray:
    """Gaussian noise along the last axis, unit variance, power 1/f**exponent above ``lowest`` Hz."""
    n_times = shape[-1]
    frequency = np.fft.rfftfreq(n_times, 1.0 / sfreq)
    amplitude = np.where(frequency < lowest, 0.0, np.maximum(frequency, lowest) ** (-exponent / 2.0))
    if not amplitude.any():
        raise BookError(
            f"coloured_noise: {n_times} samples at {sfreq:g} Hz have no frequency above {lowest:g} Hz; "
            "ask for a longer signal."
        )
    z = rng.standard_normal((*shape[:-1], len(frequency), 2), dtype=np.float32)
    spectrum = (z[..., 0] + 1j * z[..., 1]) * amplitude.astype(np.float32)
    noise = np.fft.irfft(spectrum, n_times).astype(np.float32)
    return noise / noise.std(axis=-1, keepdims=True)


def background(
    rng: np.random.Generator, n_regions: int, n_times: int, *, sfreq: float = SFREQ, exponent: float = 1.2
) -> np.ndarray:
    """(R, N) broadband 1/f source activity of unit variance, independent between regions."""
    return coloured_noise(rng, (n_regions, n_times), exponent=exponent, sfreq=sfreq)


def posterior_weight(coords: np.ndarray) -> np.ndarray:
    """(R,) strength of alpha by region: 1 at the back of the brain, 0.15 at the front."""
    y = np.asarray(coords)[:, 1]
    back = (y.max() - y) / np.ptp(y)
    return (0.15 + 0.85 * back**2).astype(np.float32)


def bursts(
    rng: np.random.Generator,
    n_regions: int,
    n_times: int,
    *,
    sfreq: float = SFREQ,
    half_width: float = 1.0,
    mixing: np.ndarray | None = None,
) -> np.ndarray:
    """(R, N) complex envelope of alpha: noise within +-``half_width`` Hz, which waxes and wanes in bursts.

    Its modulus has mean 1. ``mixing`` (R, R), such as a Cholesky factor of FC, makes regions partly coherent.
    """
    n_slow = int(np.ceil(n_times / sfreq * _BURST_RATE)) + 2
    slow = rng.standard_normal((n_regions, n_slow)) + 1j * rng.standard_normal((n_regions, n_slow))
    spectrum = np.fft.fft(slow, axis=1)
    spectrum[:, np.abs(np.fft.fftfreq(n_slow, 1.0 / _BURST_RATE)) > half_width] = 0.0
    slow = np.fft.ifft(spectrum, axis=1)
    if mixing is not None:
        slow = mixing @ slow
    slow = (slow / np.abs(slow).mean(axis=1, keepdims=True)).astype(np.complex64)
    at = np.arange(n_times) / sfreq * _BURST_RATE
    left = at.astype(int)
    weight = (at - left).astype(np.float32)
    return slow[:, left] * (1.0 - weight) + slow[:, left + 1] * weight


def alpha_sources(
    rng: np.random.Generator,
    coords: np.ndarray,
    n_times: int,
    *,
    sfreq: float = SFREQ,
    peak: float = 10.0,
    amplitude: float = 1.0,
    closed: np.ndarray | float = 0.0,
    reactivity: float = 2.6,
    slow: np.ndarray | None = None,
    coupling: np.ndarray | float = 0.0,
    mixing: np.ndarray | None = None,
) -> np.ndarray:
    """(R, N) alpha activity, relative to a background of unit variance.

    peak: Hz. closed: 0 (eyes open) .. 1 (closed), a number or (N,).
    reactivity: amplitude with eyes closed over amplitude with eyes open, at the back of the head.
    slow: (R, N) slow excitability, for instance what drives BOLD; the envelope is multiplied by
    exp(-coupling * slow), so that alpha falls when BOLD rises.
    """
    coords = np.asarray(coords)
    weight = posterior_weight(coords)[:, None]
    envelope = amplitude * weight * (1.0 + (reactivity - 1.0) * weight * np.asarray(closed, dtype=np.float32))
    if slow is not None:
        coupling = np.broadcast_to(np.asarray(coupling, dtype=np.float32), (len(coords),))[:, None]
        envelope = envelope * np.exp(-coupling * slow)
    phase = np.exp(2j * np.pi * ((peak * np.arange(n_times) / sfreq) % 1.0)).astype(np.complex64)
    z = bursts(rng, len(coords), n_times, sfreq=sfreq, mixing=mixing)
    return (envelope * np.real(z * phase)).astype(np.float32)


def sense(
    sources: np.ndarray,
    fwd: Forward,
    *,
    rng: np.random.Generator | None = None,
    noise: float = 0.35,
    moment: float = MOMENT,
) -> np.ndarray:
    """(C, N) volts at the electrodes, average reference, for ``sources`` (R, N) in units of ``moment``.

    noise: standard deviation of white sensor noise, relative to the background seen by a typical electrode;
    it does not follow the signal. Needs ``rng`` unless it is 0.
    """
    eeg = (fwd.gain * moment) @ sources
    if noise > 0:
        if rng is None:
            raise BookError("sense: noise needs a random generator; pass rng=... or noise=0.")
        scale = noise * moment * np.sqrt((fwd.gain**2).sum(axis=1).mean())
        eeg = eeg + scale * rng.standard_normal(eeg.shape)
        eeg -= eeg.mean(axis=0)
    return eeg


def back_project(eeg: np.ndarray, fwd: Forward, *, regularisation: float = 0.05) -> np.ndarray:
    """(R, N) minimum-norm sources, G'(GG' + lambda I)^-1 eeg; each region responds to itself with 1."""
    gram = fwd.gain @ fwd.gain.T
    ridge = regularisation * np.trace(gram) / len(gram) * np.eye(len(gram))
    inverse = np.linalg.solve(gram + ridge, fwd.gain).T  # (R, C)
    inverse /= np.einsum("rc,cr->r", inverse, fwd.gain)[:, None]
    return inverse @ eeg


def recording(
    coords: np.ndarray,
    subject: int = 0,
    *,
    seed: int = 0,
    seconds: float = 30.0,
    blocks: tuple[str, ...] = (EYES_OPEN, EYES_CLOSED, EYES_OPEN, EYES_CLOSED),
    sfreq: float = SFREQ,
    noise: float = 0.35,
    mixing: np.ndarray | None = None,
) -> mne.io.RawArray:
    """One subject's EEG: ``blocks`` of ``seconds`` each, annotated, deterministic in (seed, subject).

    coords: (R, 3) mm MNI. Every subject has an own alpha peak (about 10 Hz) and alpha strength.
    """
    unknown = sorted(set(blocks) - {EYES_OPEN, EYES_CLOSED})
    if unknown or not blocks:
        raise BookError(
            f"recording: blocks must be {EYES_OPEN!r} or {EYES_CLOSED!r}, got {unknown or 'none'}."
        )
    if seconds < 4.0:
        raise BookError(f"recording: a block needs at least 4 seconds, got {seconds:g}.")
    fwd = forward(coords, sfreq=sfreq)
    rng = np.random.default_rng([seed, 104_729, subject])
    peak = 10.0 + 0.7 * rng.standard_normal()
    amplitude = np.exp(0.3 * rng.standard_normal())
    n_block = round(seconds * sfreq)
    n_times = n_block * len(blocks)
    closed = np.repeat([block == EYES_CLOSED for block in blocks], n_block).astype(np.float32)

    sources = background(rng, len(fwd.coords), n_times, sfreq=sfreq)
    sources += alpha_sources(
        rng, fwd.coords, n_times, sfreq=sfreq, peak=peak, amplitude=amplitude, closed=closed, mixing=mixing
    )
    raw = mne.io.RawArray(sense(sources, fwd, rng=rng, noise=noise), fwd.info, verbose="error")
    onsets = np.arange(len(blocks)) * seconds
    return raw.set_annotations(
        mne.Annotations(onsets, [seconds] * len(blocks), list(blocks)), verbose="error"
    )
