"""From an EEG recording to series in the regions of an atlas, with MNE, in the order a user would do it.

    known channels -> filter -> resample -> bad channels -> interpolate -> average reference
    -> cut out bad pieces (autoreject) -> minimum norm on a sphere

Everything is offline: electrode positions are those of the 10-05 template, the head is MNE's four-shell
sphere, and each region is one radial dipole (:func:`helpers.simulate.eeg.forward`). That is enough to learn
with. For a study, use the person's own MRI and digitised electrodes, bring the result to the regions of an
atlas, and give it to :meth:`helpers.data.paired.PairedCohort.validate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import mne
import numpy as np
import pandas as pd

from helpers.errors import BookError
from helpers.simulate import eeg as physics

LOUD = 5.0  # robust z of a channel's log amplitude beyond which it is bad
LONELY = 0.4  # a channel that correlates with no other one by this much is bad
MOST_BAD = 0.25  # share of bad channels beyond which a recording is refused
PIECE = 2.4  # seconds of a piece that is kept or cut out: three segments of 0.8 s
REJECT = ("autoreject", "threshold", None)


@dataclass(frozen=True, eq=False)
class Parcels:
    """Clean EEG in R regions.

    ``signal`` (R, N) float32, nA m; ``sfreq``, Hz; ``raw``, the clean electrodes it was made from; ``qc``,
    one row a step: what it did and to how much.
    """

    signal: np.ndarray
    sfreq: float
    raw: mne.io.BaseRaw
    qc: pd.DataFrame


def known_names(names: list[str]) -> dict[str, str]:
    """``{name: name in the 10-05 system}``; capitals, dots and a leading ``EEG `` do not matter.

    Errors: :class:`BookError` naming channels that are not in the 10-05 system.
    """
    template = {name.lower(): name for name in physics.montage().ch_names}
    plain = {name: name.strip(". ").lower().removeprefix("eeg ").strip() for name in names}
    unknown = [name for name, key in plain.items() if key not in template]
    if unknown:
        raise BookError(
            f"unknown channels {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}: not in the 10-05"
            " system; rename them, set their type (eog, ecg, misc), or drop them"
        )
    return {name: template[key] for name, key in plain.items()}


def check(raw: mne.io.BaseRaw, band: tuple[float, float]) -> mne.io.BaseRaw:
    """A copy with its EEG channels only, named and placed by the 10-05 template, in volts.

    Errors: :class:`BookError` for a wrong sampling rate, unknown or flat channels, NaN, other units.
    """
    if not isinstance(raw, mne.io.BaseRaw):
        raise BookError(f"preprocess takes an MNE Raw, not {type(raw).__name__}: see mne.io.read_raw")
    low, high = band
    rate = raw.info["sfreq"]
    if not 0 < low < high:
        raise BookError(f"band is {band!r}: expected two rising frequencies above 0 Hz")
    if rate < 2.2 * high:
        raise BookError(
            f"wrong sampling rate: {rate:g} Hz is too slow for a band up to {high:g} Hz; at least"
            f" {2.2 * high:g} Hz are needed"
        )
    picks = mne.pick_types(raw.info, eeg=True, exclude=[])
    if len(picks) < 16:
        raise BookError(f"{len(picks)} EEG channels: source estimates need 16 or more; check channel types")
    names = [raw.ch_names[p] for p in picks]
    renamed = known_names(names)
    if raw.times[-1] < 4 * PIECE:
        raise BookError(f"the recording lasts {raw.times[-1]:.1f} s: at least {4 * PIECE:g} s are needed")
    raw = raw.copy().load_data(verbose="error").pick(names).rename_channels(renamed, verbose="error")
    raw.set_montage(physics.montage(), verbose="error")
    x = raw.get_data()
    for what, bad, advice in (
        ("NaN or infinite values in", ~np.isfinite(x).all(axis=1), "interpolate them, or mark the channel"),
        ("flat (constant) channels", np.ptp(x, axis=1) == 0, "mark them, or drop them,"),
    ):
        found = [raw.ch_names[k] for k in np.flatnonzero(bad) if raw.ch_names[k] not in raw.info["bads"]]
        if found:
            raise BookError(f"{what} {', '.join(found[:5])}: {advice} in raw.info['bads']")
    good = [k for k, name in enumerate(raw.ch_names) if name not in raw.info["bads"]]
    typical = np.median(x[good].std(axis=1))
    if typical > 1e-2:
        raise BookError(f"a typical channel varies by {typical:.2g} V: MNE expects volts; multiply by 1e-6?")
    return raw


def bad_channels(raw: mne.io.BaseRaw) -> pd.DataFrame:
    """One row a channel: amplitude (robust z of its log sd), highest correlation with another, verdict.

    Bad is a channel that is far too loud or too quiet (|z| > 5, with median and median absolute deviation in
    place of mean and sd, so that bad channels do not hide themselves), or that no other channel resembles
    (|r| < 0.4: skull and skin blur every signal over neighbours, so a lonely one is not brain).
    """
    x = raw.get_data()
    level = np.log(x.std(axis=1) + 1e-30)
    spread = 1.4826 * np.median(np.abs(level - np.median(level)))
    z = (level - np.median(level)) / max(spread, 0.05)
    with np.errstate(divide="ignore", invalid="ignore"):  # a flat channel has no correlation
        r = np.abs(np.nan_to_num(np.corrcoef(x)))
    np.fill_diagonal(r, 0)
    nearest = r.max(axis=1)
    table = pd.DataFrame({"z": z, "correlation": nearest}, index=pd.Index(raw.ch_names, name="channel"))
    table["verdict"] = np.where(np.abs(z) > LOUD, "amplitude", np.where(nearest < LONELY, "lonely", "good"))
    return table


def clean_pieces(raw: mne.io.BaseRaw, method: str | None, *, seed: int = 0) -> tuple[np.ndarray, int, str]:
    """The recording in pieces of ``PIECE`` seconds, the good ones (n, C, N), how many there were, and how.

    - ``"autoreject"``: local AutoReject (Jas et al. 2017) finds a threshold for every channel by cross-
      validation. In each piece at most four of the channels above theirs are interpolated; where 30 % exceed
      it, the piece is left out. It is no cure for blinks, which ICA removes better.
    - ``"threshold"``: one peak-to-peak threshold for all channels, found in the same way; nothing is
      interpolated.
    - ``None``: everything is kept.
    """
    if method not in REJECT:
        raise BookError(f"reject is {method!r}: choose one of {', '.join(map(repr, REJECT))}")
    pieces = mne.make_fixed_length_epochs(raw, duration=PIECE, preload=True, verbose="error")
    x, n = pieces.get_data(), len(pieces)
    if method is None:
        return x, n, "nothing rejected"
    import autoreject

    if method == "threshold":
        limit = autoreject.get_rejection_threshold(
            pieces, ch_types="eeg", cv=min(5, n), random_state=seed, verbose=False
        )["eeg"]
        bad = (np.ptp(x, axis=2) > limit).any(axis=1)
        return x[~bad], n, f"one threshold, {limit * 1e6:.0f} uV peak to peak"
    judge = autoreject.AutoReject(
        n_interpolate=[4], consensus=[0.3], cv=min(4, n), random_state=seed, verbose=False
    ).fit(pieces)
    log = judge.get_reject_log(pieces)
    mended = int((log.labels[~log.bad_epochs] == 2).sum())  # 2: above its threshold, interpolated
    limit = np.median(list(judge.threshes_.values())) * 1e6
    how = f"autoreject, {limit:.0f} uV for the median channel; {mended} channels mended in single pieces"
    with mne.use_log_level("error"):
        return judge.transform(pieces).get_data(), n, how


def preprocess(
    raw: mne.io.BaseRaw,
    coords: np.ndarray,
    *,
    band: tuple[float, float] = (1.0, 45.0),
    sfreq: float = 250.0,
    reject: str | None = "autoreject",
    seed: int = 0,
) -> Parcels:
    """EEG in the regions at ``coords`` (R, 3) mm MNI, from a recording in volts.

    Channels marked in ``raw.info["bads"]`` are interpolated, as are those found bad here. Rejected pieces are
    cut out and the rest is joined: a segment of a third of a piece never straddles a joint. A remainder
    shorter than a piece is dropped. See :func:`clean_pieces` for ``reject``.

    Errors: :class:`BookError` before anything is computed, see :func:`check`; afterwards when too many
    channels or too many pieces are bad.
    """
    clean = check(raw, band)
    steps = [("channels", f"{len(clean.ch_names)} EEG channels, {clean.times[-1]:.0f} s", "")]
    clean.filter(*band, fir_design="firwin", verbose="error")
    steps.append(("filter", f"{band[0]:g} to {band[1]:g} Hz, zero phase", ""))
    if clean.info["sfreq"] != sfreq:
        steps.append(("resample", f"{clean.info['sfreq']:g} to {sfreq:g} Hz", ""))
        clean.resample(sfreq, verbose="error")
    table = bad_channels(clean)
    found = table.index[table["verdict"] != "good"].tolist()
    bads = list(dict.fromkeys([*clean.info["bads"], *found]))
    if len(bads) > MOST_BAD * len(clean.ch_names):
        raise BookError(f"{len(bads)} of {len(clean.ch_names)} channels are bad: look at the recording first")
    clean.info["bads"] = bads
    if bads:
        clean.interpolate_bads(reset_bads=True, verbose="error")
    steps.append(("bad channels", f"{len(bads)} interpolated", ", ".join(bads)))
    clean.set_eeg_reference("average", verbose="error")
    steps.append(("reference", "average", ""))
    x, n, how = clean_pieces(clean, reject, seed=seed)
    if len(x) < n / 2:
        raise BookError(f"{n - len(x)} of {n} pieces are bad: look at the recording first")
    joined = x.transpose(1, 0, 2).reshape(len(clean.ch_names), -1)
    joined -= joined.mean(axis=0)  # interpolation in single pieces has shifted the average
    kept = mne.io.RawArray(joined, clean.info, verbose="error")
    steps.append(("rejection", f"{n - len(x)} of {n} pieces of {PIECE:g} s cut out", how))
    fwd = physics.forward(coords, sfreq=float(kept.info["sfreq"]), channels=tuple(kept.ch_names))
    signal = physics.back_project(kept.get_data(), fwd) * 1e9
    steps.append(
        ("source estimate", f"{len(signal)} regions, {kept.times[-1]:.0f} s", "minimum norm, sphere")
    )
    return Parcels(
        signal=signal.astype(np.float32),
        sfreq=float(kept.info["sfreq"]),
        raw=kept,
        qc=pd.DataFrame(steps, columns=["step", "result", "detail"]).set_index("step"),
    )
