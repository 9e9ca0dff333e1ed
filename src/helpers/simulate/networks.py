r"""BOLD of small networks with a known directed coupling, for tests of effective connectivity.

Neural activity follows Smith et al. (2011): with weights :math:`W_{ij}` from region i to region j,

.. math:: \tau\,\dot z = -z + W^\top z + u, \qquad \tau = 50\ \mathrm{ms},

where each region's own input :math:`u` is a two-state (telegraph) process, on for ``up`` and off for ``down``
seconds on average, with a random height, plus slow Gaussian noise. With ``modulation`` the weights themselves
switch in time (the bilinear term of DCM). The balloon model turns activity into BOLD (Friston et al. 2003):

.. math:: \dot s = g z - \kappa s - \gamma(f - 1),\quad \dot f = s,\quad
          \tau_0\dot v = f - v^{1/\alpha},\quad
          \tau_0\dot q = f\,\frac{1 - (1 - E_0)^{1/f}}{E_0} - v^{1/\alpha}\,\frac{q}{v},

.. math:: y = 100\,V_0\,[\,7E_0(1 - q) + 2(1 - q/v) + (2E_0 - 0.2)(1 - v)\,]\ \%.

Haemodynamic delays differ between regions and people by ``hrf_sd`` seconds. Measurement noise, a shared
signal and a high-pass filter come last. ``haemodynamics="gamma"`` replaces the balloon by a linear filter.

All people, or all graphs, of a batch advance together, one small time step after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from helpers.data import networks
from helpers.data.cohort import Provenance
from helpers.data.networks import MIN_FRAMES, NetworkSet
from helpers.errors import BookError
from helpers.simulate.bold import hrf

STEP = 0.1  # seconds, integration
BURN_IN = 20.0  # seconds thrown away
NEURAL_TAU = 0.05  # seconds
BALLOON = dict(kappa=0.65, gamma=0.41, tau=0.98, alpha=0.32, E0=0.34, V0=0.02)


@dataclass(frozen=True)
class Settings:
    """Knobs of the simulator. The defaults give signals like those of NetSim."""

    weight: float = 0.4  # mean connection strength
    weight_sd: float = 0.1  # between edges and people, cut at weight +- 2 sd
    up: float = 2.5  # seconds an input stays on
    down: float = 10.0  # seconds it stays off
    height_sd: float = 0.7  # spread of an input's height, from one time to the next
    gain: float = 1.0  # of the neural activity that drives the blood flow: more saturates
    neural_noise: float = 0.05  # sd of the slow Gaussian part of an input (the telegraph is 0 or about 1)
    neural_noise_tau: float = 1.0  # its time constant, seconds
    modulation: float = 0.0  # relative size of the switching of the weights, 0 to 1 (bilinear)
    haemodynamics: str = "balloon"  # or "gamma", linear
    hrf_sd: float = 0.5  # seconds, between regions and people
    noise: float = 0.5  # sd of the measurement noise / sd of the signal
    shared: float = 0.0  # sd of a signal common to all regions / sd of the signal
    high_pass: float = 200.0  # longest period that is kept, seconds; 0 keeps all
    mixing: float = 0.0  # share of a foreign region's signal in each region: badly drawn regions
    negative: float = 0.0  # share of the connections that are negative
    spread: float = (
        0.0  # how much gain, noise and inputs differ between the regions of one person (sd of a log)
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "haemodynamics":
                if value not in ("balloon", "gamma"):
                    raise BookError(f"haemodynamics is {value!r}: choose balloon or gamma")
                continue
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float, np.integer, np.floating))
                or not np.isfinite(value)
                or value < 0
            ):
                raise BookError(f"{f.name} is {value!r}: expected a number from 0 up")
        for name in ("up", "down", "gain", "neural_noise_tau", "weight"):
            if getattr(self, name) == 0:
                raise BookError(f"{name} is 0: expected a number above 0")
        for name in ("modulation", "negative", "mixing"):
            if getattr(self, name) > 1:
                raise BookError(f"{name} is {getattr(self, name)!r}: expected a number from 0 to 1")


# Settings under which pairwise LiNGAM (tanh) points the wrong way: inputs as often on as off, seen through a
# linear filter, have lighter tails than a Gaussian.
REVERSED = dict(up=2.5, down=2.5, height_sd=0.0, neural_noise=0.0, noise=0.5, haemodynamics="gamma")


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """Graphs of one size, each with the scan of one person: ``bold`` (B, R, T), ``truth`` (B, R, R), TR."""

    bold: np.ndarray
    truth: np.ndarray
    tr: float

    def __len__(self) -> int:
        return len(self.bold)


def ring_graph(n_regions: int, loops: int = 0, rng: np.random.Generator | None = None) -> np.ndarray:
    """NetSim's plan: rings of five regions (0 to 1 to 2 to 3 to 4, and 0 to 4), each joined to the next.

    From three rings on, the first is joined to the last as well: 5, 11 and 18 edges for 5, 10 and 15 regions.
    ``loops`` edges get a partner that points back.
    """
    truth = np.zeros((n_regions, n_regions), dtype=np.int8)
    for first in range(0, n_regions, 5):
        last = min(first + 5, n_regions) - 1
        for i in range(first, last):
            truth[i, i + 1] = 1
        if last - first > 1:
            truth[first, last] = 1
        if first:
            truth[first - 3, min(first + 2, last)] = 1
    if n_regions > 10:
        truth[2, min(first + 2, last)] = 1
    pairs = np.argwhere((truth == 1) & (truth.T == 0))
    if not 0 <= loops <= len(pairs):
        raise BookError(f"loops is {loops}: this graph has {len(pairs)} edges to turn into two-cycles")
    rng = np.random.default_rng(0) if rng is None else rng
    for i, j in pairs[rng.permutation(len(pairs))[:loops]]:
        truth[j, i] = 1
    return truth


def network(
    n_regions: int = 5,
    n_subjects: int = 50,
    *,
    n_frames: int = 200,
    tr: float = 3.0,
    truth: np.ndarray | None = None,
    loops: int = 0,
    seed: int = 0,
    **settings,
) -> NetworkSet:
    """People who share one directed network, with their own weights, noise and haemodynamics.

    ``truth`` (R, R) of 0 and 1 gives the graph, else :func:`ring_graph` with ``loops`` two-cycles; the
    regions come in random order. ``settings`` are the fields of :class:`Settings`. The same seed gives the
    same data.
    """
    options = _settings(settings)
    for name, value, low in (("n_regions", n_regions, 2), ("n_subjects", n_subjects, 1), ("seed", seed, 0)):
        _whole(name, value, low)
    _whole("n_frames", n_frames, MIN_FRAMES)
    if isinstance(tr, bool) or not isinstance(tr, (int, float)) or not 0.05 <= tr <= 10:
        raise BookError(f"tr is {tr!r}: expected seconds from 0.05 to 10")
    rng = np.random.default_rng([seed, 5])
    truth = ring_graph(n_regions, loops, rng) if truth is None else _graph(truth)
    R = len(truth)
    weights = _weights(rng, np.broadcast_to(truth, (n_subjects, R, R)), options)
    return _people(rng, truth, weights, n_frames, tr, seed, options)


def two_groups(
    n_subjects: int = 60,
    n_regions: int = 10,
    *,
    changed: int = 2,
    effect: float = 0.5,
    n_frames: int = 200,
    tr: float = 3.0,
    seed: int = 0,
    **settings,
) -> tuple[NetworkSet, np.ndarray]:
    """Controls and patients (every second person) whose networks differ in the strength of ``changed`` edges.

    ``effect`` is the share of those edges' strength that patients lack. Returns the set and the groups (S,).
    """
    options = _settings(settings)
    for name, value, low in (("n_regions", n_regions, 2), ("n_subjects", n_subjects, 2), ("seed", seed, 0)):
        _whole(name, value, low)
    rng = np.random.default_rng([seed, 6])
    truth = ring_graph(n_regions)
    edges = np.argwhere(truth)
    if not 1 <= changed <= len(edges) or not 0 <= effect <= 1:
        raise BookError(f"changed is {changed}, effect {effect}: expected 1 to {len(edges)}, and 0 to 1")
    weights = _weights(rng, np.broadcast_to(truth, (n_subjects, *truth.shape)), options)
    patient = np.arange(n_subjects) % 2 == 1
    for i, j in edges[rng.permutation(len(edges))[:changed]]:
        weights[patient, i, j] *= 1 - effect
    data = _people(rng, truth, weights, n_frames, float(tr), seed, options)
    return data, np.where(patient, "patient", "control")


def _people(
    rng: np.random.Generator,
    truth: np.ndarray,
    weights: np.ndarray,
    n_frames: int,
    tr: float,
    seed: int,
    options: Settings,
) -> NetworkSet:
    knobs = {name: np.float32(value) for name, value in asdict(options).items() if name != "haemodynamics"}
    bold = _scan(rng, weights, n_frames, float(tr), knobs, options.haemodynamics)
    return NetworkSet.validate(
        bold=bold,
        truth=truth,
        tr=float(tr),
        name="simulated network",
        subject_truth=weights,
        provenance=Provenance(
            name="simulated network",
            source="helpers.simulate.networks",
            licence="MIT",
            citation="Smith et al. 2011; Friston et al. 2003",
            notes=f"seed {seed}; " + ", ".join(f"{k}={v}" for k, v in asdict(options).items()),
        ),
    ).permuted(seed)


def random_graphs(
    n_graphs: int,
    *,
    seed: int = 0,
    n_regions: tuple[int, int] = (4, 12),
    batch: int = 128,
) -> Iterator[GraphBatch]:
    """Graphs of every kind, one scan each, in batches of one size: food for an amortised estimator.

    A batch draws its number of regions, TR (0.7 to 3 s), length (150 to 600 s, 50 to 500 frames),
    haemodynamic model and filter; each graph draws its density, order, two-cycles, hidden common causes and
    the knobs of the simulator. Nothing is taken from the graphs of NetSim or of the feedback networks.
    """
    _whole("n_graphs", n_graphs, 1)
    low, high = n_regions
    if not 2 <= low <= high:
        raise BookError(f"n_regions is {n_regions!r}: expected (low, high), from 2 up")
    made, number = 0, 0
    while made < n_graphs:
        rng = np.random.default_rng([seed, 50, number])
        yield _random_batch(rng, min(batch, n_graphs - made), int(rng.integers(low, high + 1)))
        made += batch
        number += 1


# -- graphs --------------------------------------------------------------------------------------------


def _graph(truth) -> np.ndarray:
    truth = np.asarray(truth)
    if truth.ndim != 2 or truth.shape[0] != truth.shape[1] or len(truth) < 2:
        raise BookError(f"truth has shape {truth.shape}: expected (regions, regions), at least two")
    if not np.isin(truth, (0, 1)).all() or np.diag(truth).any():
        raise BookError("truth must be 0 or 1, with zeros on the diagonal")
    return truth.astype(np.int8)


def _weights(rng: np.random.Generator, truth: np.ndarray, s: Settings) -> np.ndarray:
    """Connection weights (B, R, R), the spectral radius held below 0.9 so that activity does not run away."""
    draw = np.clip(rng.standard_normal(truth.shape), -2, 2)
    sign = np.where(rng.random(truth.shape[1:]) < s.negative, -1.0, 1.0)  # of an edge, the same in everybody
    return _stable(truth * sign * np.maximum(s.weight + s.weight_sd * draw, 0.02))


def _stable(weights: np.ndarray) -> np.ndarray:
    radius = np.abs(np.linalg.eigvals(weights)).max(axis=-1)
    return (weights * np.minimum(1.0, 0.9 / np.maximum(radius, 1e-9))[:, None, None]).astype(np.float32)


def _random_truth(rng: np.random.Generator, B: int, R: int) -> np.ndarray:
    """Random directed graphs: sparse or dense, acyclic or not, spread out or around a few hubs."""
    degree = rng.uniform(0.7, 1.8, (B, 1, 1))  # edges a region
    hub = np.exp(rng.normal(0, rng.uniform(0, 0.8, (B, 1)), (B, R)))  # some regions have more edges
    ring = np.abs(np.arange(R)[:, None] - np.arange(R))
    near = np.exp(-np.minimum(ring, R - ring) * rng.choice([0.0, 0.7], (B, 1, 1)))  # neighbours, or anybody
    chance = np.triu(hub[:, :, None] * hub[:, None, :] * near, 1)
    chance = np.minimum(chance * (degree * R / chance.sum(axis=(1, 2), keepdims=True)), 0.95)
    upper = rng.random((B, R, R)) < chance
    flip = np.triu(rng.random((B, R, R)) < 0.5, 1) & (rng.random((B, 1, 1)) < 0.5)  # half may hold cycles
    back = np.triu(rng.random((B, R, R)) < rng.choice([0.0, 0.2], (B, 1, 1), p=[0.6, 0.4]), 1)
    truth = (upper & ~flip) | (upper & (flip | back)).transpose(0, 2, 1)
    index = np.argsort(rng.random((B, R)), axis=1)  # the number of a region tells nothing
    return np.take_along_axis(np.take_along_axis(truth, index[:, :, None], 1), index[:, None, :], 2).astype(
        np.int8
    )


def _random_batch(rng: np.random.Generator, B: int, R: int) -> GraphBatch:
    tr = float(rng.choice([0.7, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 3.0, 3.0]))
    seconds = float(rng.choice([150, 300, 600, 600, 600]))
    T = int(np.clip(seconds / tr, 50, 500))
    H = int(rng.integers(0, 3)) if rng.random() < 0.3 else 0  # hidden regions that drive others
    full = np.zeros((B, R + H, R + H), dtype=np.int8)
    full[:, :R, :R] = _random_truth(rng, B, R)
    full[:, R:, :R] = rng.random((B, H, R)) < 2.5 / R

    def uniform(low, high):
        return rng.uniform(low, high, (B, 1)).astype(np.float32)

    def log_uniform(low, high):
        return np.exp(uniform(np.log(low), np.log(high)))

    def sometimes(chance, high):
        return np.where(rng.random((B, 1)) < chance, uniform(0, high), 0).astype(np.float32)

    up = log_uniform(0.8, 4.0)
    weight, spread = uniform(0.25, 0.7)[:, :, None], uniform(0.05, 0.15)[:, :, None]
    sign = np.where(rng.random(full.shape) < sometimes(0.2, 0.4)[:, :, None], -1.0, 1.0)
    draw = np.clip(rng.standard_normal(full.shape), -2, 2)
    knobs = dict(
        up=up,
        down=up * log_uniform(2.0, 6.0),
        height_sd=uniform(0, 1.2),
        gain=log_uniform(0.4, 1.6),
        neural_noise=log_uniform(0.03, 0.25),
        neural_noise_tau=log_uniform(0.3, 3.0),
        hrf_sd=uniform(0, 0.8),
        noise=log_uniform(0.05, 0.8),
        shared=sometimes(0.2, 0.8),
        mixing=sometimes(0.15, 0.3),
        high_pass=np.float32(rng.choice([0.0, 100.0, 200.0])),
        modulation=np.float32(0),
        spread=uniform(0, 0.5),
    )
    weights = _stable(full * sign * np.maximum(weight + spread * draw, 0.05))
    haemodynamics = "balloon" if rng.random() < 0.85 else "gamma"
    bold = _scan(rng, weights, T, tr, knobs, haemodynamics, n_seen=R)
    return GraphBatch(bold=bold, truth=full[:, :R, :R], tr=tr)


# -- activity and BOLD ---------------------------------------------------------------------------------


def _scan(
    rng: np.random.Generator,
    weights: np.ndarray,
    T: int,
    tr: float,
    knobs: dict,
    haemodynamics: str,
    n_seen: int | None = None,
) -> np.ndarray:
    """BOLD (B, R, T) float32 of B networks with ``weights`` (B, R, R); regions from ``n_seen`` on are hidden.

    ``knobs`` holds the numbers of :class:`Settings`, each a scalar or (B, 1).
    """
    B, R, _ = weights.shape
    step = min(STEP, tr / 2)
    knobs = dict(knobs)
    for name in ("gain", "noise", "up", "down", "neural_noise"):
        factor = np.exp(knobs["spread"] * rng.standard_normal((B, R), dtype=np.float32))
        knobs[name] = knobs[name] * factor
    with threadpool_limits(1):
        fine = _run(
            rng, weights, BURN_IN + T * tr + 5.0, step, knobs, haemodynamics == "balloon"
        )  # (n, B, R)
        if haemodynamics == "gamma":
            fine = _gamma_filter(fine, step)
        delay = np.clip(knobs["hrf_sd"] * rng.standard_normal((B, R), dtype=np.float32), -2.4, 2.4)
        times = (BURN_IN + 2.5 + tr * np.arange(T)[:, None, None] + delay) / step  # (T, B, R)
        index = times.astype(np.int64)
        part = (times - index).astype(np.float32)
        low = np.take_along_axis(fine, index, 0)
        bold = low + part * (np.take_along_axis(fine, index + 1, 0) - low)
        bold = bold.transpose(1, 2, 0)[:, :n_seen]  # (B, R, T)
        return _measure(rng, bold, tr, knobs)


def _measure(rng: np.random.Generator, bold: np.ndarray, tr: float, knobs: dict) -> np.ndarray:
    """What the scanner and the preprocessing add: mixed regions, a shared signal, noise, a filter."""
    B, R, T = bold.shape

    def knob(name):
        return np.asarray(knobs[name], dtype=np.float32).reshape(-1, 1, 1)

    noise = np.asarray(knobs["noise"], dtype=np.float32)[:, :R, None]
    sd = bold.std(axis=-1, keepdims=True).mean(axis=1, keepdims=True)  # one a network
    if np.any(knobs["mixing"]):
        other = (np.arange(R) + rng.integers(1, R, (B, R))) % R
        bold = bold + knob("mixing") * np.take_along_axis(bold, other[:, :, None], 1)
    if np.any(knobs["shared"]):
        common = rng.standard_normal((B, 1, T), dtype=np.float32)
        bold = bold + knob("shared") * sd * common
    bold = bold + noise * sd * rng.standard_normal(bold.shape, dtype=np.float32)
    bold = bold - bold.mean(axis=-1, keepdims=True)
    longest = float(knobs["high_pass"])
    waves = int(2 * T * tr / longest) if longest else 0
    if waves:  # the slow cosines, taken out by regression
        t = np.arange(T) + 0.5
        slow = np.cos(np.pi * np.outer(np.arange(1, waves + 1), t) / T) * np.sqrt(2 / T)
        slow = slow.astype(np.float32)
        bold = bold - (bold @ slow.T) @ slow
    return np.ascontiguousarray(bold, dtype=np.float32)


def _run(
    rng: np.random.Generator, weights: np.ndarray, seconds: float, step: float, knobs: dict, balloon: bool
) -> np.ndarray:
    """BOLD (or neural activity) every ``step`` seconds, (n, B, R) float32."""
    B, R, _ = weights.shape
    n = int(np.ceil(seconds / step)) + 1

    def knob(name):
        return np.broadcast_to(np.asarray(knobs[name], dtype=np.float32), (B, R))

    gain = knob("gain")
    modulation = float(np.max(knobs["modulation"]))
    advance = _bilinear(rng, weights, step, modulation) if modulation else _linear(weights, step)
    inputs = _inputs(rng, n, step, knob)
    state = _rest(B, R)
    z = np.zeros((B, R), dtype=np.float32)
    out = np.empty((n, B, R), dtype=np.float32)
    for t, u in enumerate(inputs):
        z = advance(z, u)
        out[t] = _balloon(state, gain * z, step) if balloon else z
    return out


def _inputs(rng: np.random.Generator, n: int, step: float, knob) -> Iterator[np.ndarray]:
    """The regions' own inputs u (B, R), one time step after the other."""
    up, down, height_sd = knob("up"), knob("down"), knob("height_sd")
    shape = up.shape
    leave_up, leave_down = 1 - np.exp(-step / up), 1 - np.exp(-step / down)
    keep = np.exp(-step / knob("neural_noise_tau"))
    fresh = knob("neural_noise") * np.sqrt(1 - keep**2)
    on = rng.random(shape) < up / (up + down)
    height = on.astype(np.float32)
    slow = knob("neural_noise") * rng.standard_normal(shape, dtype=np.float32)
    for first in range(0, n, 100):
        m = min(100, n - first)
        chance = rng.random((m, *shape), dtype=np.float32)
        noise = fresh * rng.standard_normal((m, *shape), dtype=np.float32)
        heights = np.maximum(1 + height_sd * rng.standard_normal((m, *shape), dtype=np.float32), 0)
        for k in range(m):
            switch = chance[k] < np.where(on, leave_up, leave_down)
            on = on ^ switch
            height = np.where(switch, heights[k] * on, height)
            slow = keep * slow + noise[k]
            yield height + slow


def _linear(weights: np.ndarray, step: float):
    r"""Exact step of :math:`\tau \dot z = -z + W^\top z + u` for an input that stays the same during it."""
    from scipy.linalg import expm

    eye = np.eye(weights.shape[-1])
    rate = weights.transpose(0, 2, 1).astype(float) - eye  # (B, R, R)
    decay = expm(rate * (step / NEURAL_TAU))
    drive = (eye - decay) @ np.linalg.inv(-rate)
    both = np.concatenate([decay, drive], axis=-1).astype(np.float32)  # (B, R, 2R)

    def advance(z: np.ndarray, u: np.ndarray) -> np.ndarray:
        return np.matmul(both, np.concatenate([z, u], axis=-1)[:, :, None])[:, :, 0]

    return advance


def _bilinear(rng: np.random.Generator, weights: np.ndarray, step: float, modulation: float):
    """The same with weights that are switched up and down, every 30 s on average; small explicit steps."""
    down = np.ascontiguousarray(weights.transpose(0, 2, 1))
    state = {"sign": np.where(rng.random(down.shape) < 0.5, -1, 1).astype(np.float32)}
    parts = max(1, int(np.ceil(step / 0.02)))
    h = np.float32(step / parts / NEURAL_TAU)

    def advance(z: np.ndarray, u: np.ndarray) -> np.ndarray:
        flip = rng.random(down.shape, dtype=np.float32) < step / 30
        state["sign"] = np.where(flip, -state["sign"], state["sign"])
        now = down * (1 + np.float32(modulation) * state["sign"])
        for _ in range(parts):
            z = z + h * (np.matmul(now, z[:, :, None])[:, :, 0] - z + u)
        return np.clip(z, -20, 20)

    return advance


def _rest(B: int, R: int) -> dict[str, np.ndarray]:
    """The balloon at rest: no signal, and flow, volume and deoxyhaemoglobin of 1."""
    zero, one = np.zeros((B, R), dtype=np.float32), np.ones((B, R), dtype=np.float32)
    return dict(s=zero, log_f=zero.copy(), v=one, q=one.copy())


def _balloon(x: dict[str, np.ndarray], drive: np.ndarray, step: float) -> np.ndarray:
    """One explicit step of the balloon model; returns BOLD in percent. Flow is kept in the log, above 0."""
    p = {name: np.float32(value) for name, value in BALLOON.items()}
    h = np.float32(step)
    f = np.exp(x["log_f"])
    x["s"] = x["s"] + h * (drive - p["kappa"] * x["s"] - p["gamma"] * (f - 1))
    x["log_f"] = np.clip(x["log_f"] + h * x["s"] / f, -2, 2)
    outflow = np.exp(np.log(x["v"]) / p["alpha"])
    extraction = 1 - np.exp(np.log1p(-p["E0"]) / f)
    q = x["q"] + h / p["tau"] * (f * extraction / p["E0"] - outflow * x["q"] / x["v"])
    v = np.maximum(x["v"] + h / p["tau"] * (f - outflow), np.float32(0.1))
    x["q"], x["v"] = q, v
    return (
        100 * p["V0"] * (7 * p["E0"] * (1 - q) + 2 * (1 - q / v) + (2 * p["E0"] - np.float32(0.2)) * (1 - v))
    )


def _gamma_filter(z: np.ndarray, step: float) -> np.ndarray:
    """Activity (n, B, R) convolved with the double-gamma response."""
    from scipy.signal import oaconvolve

    kernel = (hrf(np.arange(0, 32, step)) * step).astype(np.float32)
    return oaconvolve(z, kernel[:, None, None], axes=0)[: len(z)].astype(np.float32)


def _whole(name: str, value, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise BookError(f"{name} is {value!r}: expected a whole number from {low} up")


def _settings(options: dict) -> Settings:
    known = [f.name for f in fields(Settings)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise BookError(f"unknown simulation setting {', '.join(unknown)}: choose from {', '.join(known)}")
    return Settings(**options)


def calibration() -> pd.DataFrame:
    """Statistics of this simulator beside those of NetSim 1 to 3 (:func:`helpers.data.networks.statistics`).

    Errors: :class:`MissingData` without the NetSim files.
    """
    rows = {}
    for k, n_regions in ((1, 5), (2, 10), (3, 15)):
        rows[f"NetSim {k}"] = networks.statistics(networks.netsim(k))
        rows[f"ours, {n_regions} regions"] = networks.statistics(network(n_regions, 50, seed=k))
    return pd.DataFrame.from_dict(rows, orient="index").round(2)


if __name__ == "__main__":
    print(calibration().to_string())
