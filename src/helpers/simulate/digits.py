"""Written digits with words for them that nobody ever spoke: Audiovision-MNIST without a download.

**Images** are real: the 8 x 8 digits bundled with scikit-learn (UCI, Alpaydin & Kaynak 1998), enlarged to
28 x 28. **Sounds** are not speech: ten words are drawn as tracks of three formants and rendered by a source
(a train of pulses, or noise) and resonators, in the manner of formant synthesis (Klatt 1980), in three
voices. A listener tells the words apart; nobody would take them for a person. They are easier than real
recordings.

Vowel formants: means of men in Peterson & Barney 1952. Everything else (consonants, lengths, voices) is
typical or by ear. Sizes, splits and pairing follow :mod:`helpers.data.avmnist`: 105 pairs a digit to train,
45 to test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage, signal
from sklearn.datasets import load_digits

from helpers.data.avmnist import N_TEST, N_TEST_TAKES, N_TRAIN, RATE, Pairs
from helpers.data.cohort import Provenance
from helpers.errors import BookError


@dataclass(frozen=True)
class Phone:
    """Formants F1 to F3 in Hz; ``voice`` 1 for pulses, 0 for noise; loudness; length in ms."""

    formants: tuple[float, float, float]
    voice: float
    loudness: float
    length: float


PHONES = {
    "IY": Phone((270, 2290, 3010), 1, 1.0, 130),
    "IH": Phone((390, 1990, 2550), 1, 1.0, 90),
    "EH": Phone((530, 1840, 2480), 1, 1.0, 110),
    "AH": Phone((640, 1190, 2390), 1, 1.0, 100),
    "AA": Phone((730, 1090, 2440), 1, 1.0, 120),
    "AO": Phone((570, 840, 2410), 1, 1.0, 130),
    "UW": Phone((300, 870, 2240), 1, 0.9, 130),
    "R": Phone((350, 1100, 1500), 1, 0.7, 70),
    "W": Phone((290, 610, 2150), 1, 0.6, 70),
    "N": Phone((250, 1300, 2300), 1, 0.5, 80),
    "V": Phone((250, 1000, 2200), 0.6, 0.3, 60),
    "Z": Phone((300, 1700, 3600), 0.4, 0.35, 80),
    "S": Phone((1800, 2900, 3700), 0, 0.4, 100),
    "F": Phone((1000, 1900, 3000), 0, 0.2, 90),
    "TH": Phone((1200, 2000, 2800), 0, 0.15, 80),
    "T": Phone((1700, 2600, 3600), 0, 0.5, 25),
    "K": Phone((1000, 1800, 2600), 0, 0.45, 30),
    ".": Phone((500, 1500, 2500), 0, 0.0, 45),  # silence before a stop
}
WORDS = (
    "Z IH R AO UW", "W AH N", ". T UW", "TH R IY", "F AO R",
    "F AA IY V", "S IH . K S", "S EH V AH N", "EH IY . T", "N AA IY N",
)  # fmt: skip
VOICES = {
    "voice-a": (105.0, 1.0),
    "voice-b": (135.0, 1.07),
    "voice-c": (205.0, 1.16),
}  # pitch in Hz, formants x
BANDWIDTHS = np.array([80.0, 110.0, 160.0])  # Hz
TAKES = 50  # of each word and voice, as in FSDD


def word(digit: int, voice: str, take: int, *, seed: int = 0, noise: float = 0.1) -> np.ndarray:
    """One take of a word, (time,) float32 at 8 kHz, loudest sample 1; ``noise`` relative to its rms."""
    if digit not in range(10) or voice not in VOICES or take < 0 or noise < 0:
        raise BookError(f"no word {digit!r} of {voice!r}, take {take}: digits 0 to 9, {', '.join(VOICES)}")
    rng = np.random.default_rng([seed, digit, list(VOICES).index(voice), take])
    phones = [PHONES[name] for name in WORDS[digit].split()]
    pitch, scale = VOICES[voice]
    pitch, scale = pitch * np.exp(rng.normal(0, 0.08)), scale * np.exp(rng.normal(0, 0.03))
    tempo = np.exp(rng.normal(0, 0.12))
    lengths = np.array([p.length * tempo * np.exp(rng.normal(0, 0.12)) for p in phones]) * RATE / 1000
    n = int(lengths.sum()) + 1
    # Tracks: each phone holds the middle of its time and glides to the next
    ends = np.cumsum(lengths)
    knots = np.concatenate([np.stack([ends - 0.75 * lengths, ends - 0.25 * lengths], axis=1).ravel()])
    t = np.arange(n)

    def track(values) -> np.ndarray:
        return np.interp(t, knots, np.repeat(np.asarray(values, dtype=float), 2))

    formants = [[p.formants[k] * scale * np.exp(rng.normal(0, 0.04)) for p in phones] for k in range(3)]
    voiced, loud = track([p.voice for p in phones]), track([p.loudness for p in phones])
    f0 = pitch * (1.1 - 0.25 * t / n) * (1 + 0.01 * np.sin(2 * np.pi * 5 * t / RATE))
    pulses = np.diff(np.floor(np.cumsum(f0) / RATE), prepend=0) * np.sqrt(RATE / f0)
    source = voiced * signal.lfilter([1], [1, -0.9], pulses) + (1 - voiced) * rng.standard_normal(n)
    sound = _resonate(source * loud, np.stack([track(f) for f in formants]))
    edge = np.minimum(1, np.minimum(t, n - 1 - t) / (0.01 * RATE))
    sound = sound * edge / np.abs(sound * edge).max()
    return (sound + noise * sound.std() * rng.standard_normal(n)).astype(np.float32)


def _resonate(source: np.ndarray, formants: np.ndarray, window: int = 160, hop: int = 40) -> np.ndarray:
    """A source through three resonances that move: the spectrum of each 20 ms window times |H|, added up."""
    n = len(source)
    padded = np.pad(source, (window, 2 * window))
    starts = np.arange(0, n + window, hop)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = padded[starts[:, None] + np.arange(window)] * hann
    f = np.fft.rfftfreq(2 * window, 1 / RATE)  # twice the length, so that ringing does not wrap round
    centre = formants[:, np.clip(starts - window // 2, 0, n - 1)]  # (3, frames)
    gain = np.ones((len(starts), len(f)))
    for F, width in zip(centre, BANDWIDTHS, strict=True):
        gain *= F[:, None] ** 2 / np.sqrt((F[:, None] ** 2 - f**2) ** 2 + (width * f) ** 2)
    shaped = np.fft.irfft(np.fft.rfft(frames, 2 * window, axis=1) * gain, axis=1)
    out = np.zeros(len(padded) + 2 * window)
    for start, frame in zip(starts.tolist(), shaped, strict=True):
        out[start : start + 2 * window] += frame
    return out[window : window + n] * 2 * hop / window


def pairs(*, seed: int = 0, noise: float = 0.1) -> Pairs:
    """The 1,500 pairs: 105 a digit to train, 45 to test, as in Audiovision-MNIST.

    Images: of each digit the first 105 and the last 45 in the order of the file, which was written by 13
    people one after the other, so that most writers of the test images are new. ``seed`` draws the sounds.
    """
    digits = load_digits()
    pictures = {}
    for i, picture in enumerate(digits.images):
        pictures.setdefault(int(digits.target[i]), []).append((i, picture))
    images, waves, rows = [], [], []
    for split in ("train", "test"):
        for digit in range(10):
            chosen = pictures[digit][:N_TRAIN] if split == "train" else pictures[digit][-N_TEST:]
            takes = range(N_TEST_TAKES, TAKES) if split == "train" else range(N_TEST_TAKES)
            sounds = [(voice, take) for voice in VOICES for take in takes]
            for (i, picture), (voice, take) in zip(chosen, sounds, strict=True):
                images.append(picture)
                waves.append(word(digit, voice, take, seed=seed, noise=noise))
                rows.append((split, digit, voice, f"{digit}_{voice}_{take}", i))
    large = ndimage.zoom(np.stack(images) / 16, (1, 3.5, 3.5), order=1, grid_mode=True, mode="nearest")
    table = pd.DataFrame(rows, columns=["split", "digit", "speaker", "recording", "image"])
    return Pairs.validate(
        images=2 * np.clip(large, 0, 1) - 1,
        waves=waves,
        labels=table["digit"].to_numpy(),
        table=table,
        provenance=Provenance(
            name="digits with synthetic words",
            source="scikit-learn's bundled digits; sounds by helpers.simulate.digits",
            licence="images CC BY 4.0 (UCI); sounds MIT",
            citation="Alpaydin & Kaynak 1998; Peterson & Barney 1952",
            notes=f"seed {seed}, noise {noise:g}; the sounds are no recordings",
        ),
    )
