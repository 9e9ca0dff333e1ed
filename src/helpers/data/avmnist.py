"""Audiovision-MNIST: handwritten digits paired with spoken ones, 1,050 pairs to train and 450 to test.

Sounds: Free Spoken Digit Dataset v1.0.8, 1,500 recordings of three speakers at 8 kHz; of each speaker and
digit the takes 0 to 14 are test. Images: MNIST. The pairing follows the code of SMIL (Ma et al. 2021): of
each digit the first 105 images in the order of the file names ``0.png, 1.png, 10.png, ...`` meet the
training sounds, the last 45 images of MNIST's test set the test sounds, both sorted by speaker and file
name. Every speaker is in both halves, and a pair is two people who never met.

SMIL takes the training images from MNIST's training set (9.9 MB). ``train_images="test"``, our default, takes
them from the test set, which is downloaded anyway: the test pairs are the same, the training images others.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import pandas as pd
import pooch
from scipy import fft
from scipy.io import wavfile

from helpers import io
from helpers.data import registry
from helpers.data.cohort import Provenance
from helpers.errors import BookError
from helpers.paths import data_root

COMMIT = "e9e1155aba3a0c632823b813aa74918807644509"  # FSDD v1.0.8
FSDD = f"https://raw.githubusercontent.com/Jakobovski/free-spoken-digit-dataset/{COMMIT}/recordings"
MNIST = "https://raw.githubusercontent.com/fgnt/mnist/ae608a02b796c9ee908c082585a5f006fe05258e"
FSDD_LICENCE, MNIST_LICENCE = "CC BY-SA 4.0", "not stated; cite LeCun et al. 1998"
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}  # the first is the widely published one; the file itself was not at hand when this was written
SPEAKERS = ("jackson", "nicolas", "theo")
N_TRAIN, N_TEST, N_TEST_TAKES = 105, 45, 15  # a digit; takes a speaker and digit
RATE = 8000  # Hz
FRAMES = 20  # and 20 coefficients: the published input is 20 x 20


# -- MFCC -------------------------------------------------------------------------------------------------


def _mel(hertz: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    f = np.asarray(hertz, dtype=float)
    return np.where(f < 1000, 3 * f / 200, 15 + 27 * np.log(np.maximum(f, 1000) / 1000) / np.log(6.4))


def _hertz(mel: np.ndarray) -> np.ndarray:
    m = np.asarray(mel, dtype=float)
    return np.where(m < 15, 200 * m / 3, 1000 * np.exp((np.maximum(m, 15) - 15) * np.log(6.4) / 27))


@lru_cache(maxsize=8)
def mel_filters(rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Triangles of equal area on the mel scale, (n_mels, n_fft // 2 + 1)."""
    f = np.linspace(0, rate / 2, n_fft // 2 + 1)
    corner = _hertz(np.linspace(0, _mel(rate / 2), n_mels + 2))
    up = (f - corner[:-2, None]) / np.diff(corner)[:-1, None]
    down = (corner[2:, None] - f) / np.diff(corner)[1:, None]
    return np.maximum(0, np.minimum(up, down)) * (2 / (corner[2:] - corner[:-2]))[:, None]


def mfcc(
    wave: np.ndarray, *, rate: int = RATE, n_mfcc: int = 20, n_fft: int = 2048, hop: int = 512, n_mels: int
    = 128
) -> np.ndarray:  # fmt: skip
    """Mel-frequency cepstral coefficients (n_mfcc, frames): log mel power, at most 80 dB deep, then a DCT.

    Frames are centred on multiples of ``hop``, the ends padded with zeros, the window is Hann's: what librosa
    does by default.
    """
    wave = np.asarray(wave, dtype=float)
    if wave.ndim != 1 or len(wave) == 0 or not np.isfinite(wave).all():
        raise BookError(f"a wave of shape {wave.shape}: expected (time,), finite and not empty")
    padded = np.pad(wave, n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    power = np.abs(fft.rfft(frames * window, axis=1)) ** 2
    mel = 10 * np.log10(np.maximum(mel_filters(rate, n_fft, n_mels) @ power.T, 1e-10))
    return fft.dct(np.maximum(mel, mel.max() - 80), axis=0, norm="ortho")[:n_mfcc]


def mfcc_published(wave: np.ndarray) -> np.ndarray:
    """(20, 20) as SMIL's public code makes it: every third sample, no low-pass filter, declared as 8 kHz.

    What lies above 1.33 kHz folds down, all frequencies are three times too high, and a word lasts two or
    three of the 20 frames; the others are zero.
    """
    return _20_frames(mfcc(wave[::3]))


def mfcc_corrected(wave: np.ndarray) -> np.ndarray:
    """(20, 20) at the full rate, the hop chosen so that the word fills the 20 frames."""
    return _20_frames(mfcc(wave, n_fft=512, hop=int(np.ceil(len(wave) / FRAMES)), n_mels=40))


def _20_frames(found: np.ndarray) -> np.ndarray:
    """Cut to 20 frames, or padded with zeros at the end."""
    return np.pad(found[:, :FRAMES], ((0, 0), (0, max(0, FRAMES - found.shape[1]))))


# -- pairs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of an image and a sound of one digit, training first, then test.

    - ``images`` (S, 28, 28) float32 in [-1, 1]; ``waves`` S arrays (time,) at ``RATE``; ``labels`` (S,) int64
    - ``table``: one row a pair: split (train, test), digit, speaker, recording, image
    """

    images: np.ndarray
    waves: tuple[np.ndarray, ...]
    labels: np.ndarray
    table: pd.DataFrame
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} to train, {len(self.test)} to test"
        return f"Pairs({self.provenance.name}: {sizes}, {self.hash})"

    @property
    def train(self) -> np.ndarray:
        """Positions of the training pairs."""
        return np.flatnonzero(self.table["split"] == "train")

    @property
    def test(self) -> np.ndarray:
        """Positions of the test pairs."""
        return np.flatnonzero(self.table["split"] == "test")

    @property
    def hash(self) -> str:
        """Identity: 12 hex digits of the sha256 over images, waves, labels and split."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        for wave in self.waves:
            digest.update(np.ascontiguousarray(wave).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        digest.update("\n".join(self.table["split"].astype(str)).encode())
        return digest.hexdigest()[:12]

    def mfcc(self, kind: str = "corrected") -> np.ndarray:
        """(S, 20, 20) float32: coefficients x frames, ``corrected`` or as ``published``."""
        makers = {"corrected": mfcc_corrected, "published": mfcc_published}
        if kind not in makers:
            raise BookError(f"mfcc: {kind!r} is not one of {', '.join(makers)}")
        return np.stack([makers[kind](wave) for wave in self.waves]).astype(np.float32)

    def with_sound(self, rate: float, *, seed: int = 0) -> np.ndarray:
        """(S,) bool: the training pairs whose sound is there, ``rate`` of each digit; test pairs are False.

        The same seed gives nested sets: who has sound at 5 % has it at 20 %. At 20 % that is 21 of 105 a
        digit.
        """
        if isinstance(rate, bool) or not isinstance(rate, (int, float, np.floating)) or not 0 < rate <= 1:
            raise BookError(f"rate is {rate!r}: expected a share above 0, at most 1")
        rng, have = np.random.default_rng(seed), np.zeros(len(self), dtype=bool)
        for digit in np.unique(self.labels):
            rows = self.train[self.labels[self.train] == digit]
            have[rng.permutation(rows)[: max(1, int(rate * len(rows) + 0.5))]] = True
        return have

    @classmethod
    def validate(cls, *, images, waves, labels, table: pd.DataFrame, provenance: Provenance) -> Pairs:
        """Check what later code takes for granted."""
        images, labels = np.asarray(images, dtype=np.float32), np.asarray(labels)
        waves = tuple(np.asarray(w, dtype=np.float32) for w in waves)
        S = len(labels)
        if images.shape != (S, 28, 28) or len(waves) != S or len(table) != S:
            raise BookError(
                f"{S} labels, {len(waves)} waves, {len(table)} rows and images {images.shape} do not fit"
            )
        if labels.dtype.kind not in "iu" or not np.isin(labels, range(10)).all():
            raise BookError("labels must be the digits 0 to 9")
        if not np.isfinite(images).all() or np.abs(images).max() > 1 + 1e-6:
            raise BookError("images must lie in [-1, 1]")
        bad = [s for s, w in enumerate(waves) if w.ndim != 1 or len(w) == 0 or not np.isfinite(w).all()]
        if bad:
            raise BookError(f"the wave of pair {bad[0]} is empty, not one channel, or not finite")
        if not set(table["split"]) <= {"train", "test"}:
            raise BookError("split must be train or test")
        return cls(images, waves, labels.astype(np.int64), table.reset_index(drop=True), provenance)


# -- the public data --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _recordings() -> dict[str, str]:
    """Name of each recording -> sha256."""
    with (files("helpers.data") / "fsdd_1500.csv").open() as handle:
        table = pd.read_csv(handle, dtype=str)
    return dict(zip(table["recording"], table["sha256"], strict=True))


def _sounds(names: Mapping[str, str]) -> None:
    """Have all recordings in the cache, verified."""
    folder = data_root() / "fsdd"
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        io.make_folder(folder)
        print(f"downloading {len(lacking)} recordings (10 MB in all, {FSDD_LICENCE}) from {FSDD}")
        first = lacking[0]  # one by itself: without a network there is one clear error, not 1,500
        registry.fetch(f"fsdd/{first}", f"{FSDD}/{first}", names[first], FSDD_LICENCE)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(_download, lacking[1:]))
    registry.verify({folder / name: sha256 for name, sha256 in names.items()})


def _download(name: str) -> None:
    path, url = data_root() / "fsdd" / name, f"{FSDD}/{name}"
    part = path.with_name(f".{name}.{os.getpid()}.part")
    try:
        pooch.HTTPDownloader(progressbar=False, timeout=registry.TIMEOUT)(url, str(part), None)
        os.replace(part, path)
    except OSError as error:
        raise registry.missing(path, url, error) from error
    finally:
        part.unlink(missing_ok=True)


def _idx(name: str) -> np.ndarray:
    """One of MNIST's files as an array of bytes: (n, 28, 28) or (n,)."""
    path = registry.fetch(f"mnist/{name}", f"{MNIST}/{name}", MNIST_SHA256[name], MNIST_LICENCE)
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise BookError(f"{path} is cut short or damaged: delete it and run again") from error
    n_axes = raw[3]
    shape = np.frombuffer(raw, ">u4", n_axes, offset=4).astype(int)
    if len(raw) != 4 + 4 * n_axes + shape.prod():
        raise BookError(f"{path} is cut short or damaged: delete it and run again")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def _by_name(labels: np.ndarray, digit: int) -> list[int]:
    """Positions of a digit in the order of the file names 0.png, 1.png, 10.png, 100.png, ..."""
    return sorted(np.flatnonzero(labels == digit).tolist(), key=lambda i: f"{i}.png")


def load(*, train_images: str = "test") -> Pairs:
    """The 1,500 pairs. ``train_images``: the part of MNIST they come from, ``test`` or (SMIL) ``train``.

    Errors: :class:`MissingData` when a file is neither cached nor to be downloaded.
    """
    if train_images not in ("train", "test"):
        raise BookError(f"train_images is {train_images!r}: choose train or test")
    tests = _idx("t10k-images-idx3-ubyte.gz"), _idx("t10k-labels-idx1-ubyte.gz")
    trains = tests
    if train_images == "train":
        trains = _idx("train-images-idx3-ubyte.gz"), _idx("train-labels-idx1-ubyte.gz")
    names = _recordings()
    _sounds(names)
    images, waves, rows = [], [], []
    for split, (pictures, labels) in (("train", trains), ("test", tests)):
        for digit in range(10):
            chosen = _by_name(labels, digit)
            chosen = chosen[:N_TRAIN] if split == "train" else chosen[-N_TEST:]
            sounds = []
            for speaker in SPEAKERS:
                takes = [k for k in range(50) if (k < N_TEST_TAKES) == (split == "test")]
                sounds += sorted(f"{digit}_{speaker}_{k}.wav" for k in takes)
            for i, sound in zip(chosen, sounds, strict=True):
                images.append(pictures[i])
                waves.append(_wave(sound))
                rows.append((split, digit, sound.split("_")[1], sound, i))
    table = pd.DataFrame(rows, columns=["split", "digit", "speaker", "recording", "image"])
    used = {k: v for k, v in MNIST_SHA256.items() if train_images == "train" or k.startswith("t10k")}
    return Pairs.validate(
        images=np.stack(images) / np.float32(127.5) - 1,
        waves=waves,
        labels=table["digit"].to_numpy(),
        table=table,
        provenance=Provenance(
            name="Audiovision-MNIST",
            source=f"{FSDD}; {MNIST}",
            licence=f"sounds {FSDD_LICENCE}; images: {MNIST_LICENCE}",
            citation="Jackson et al. 2018, FSDD v1.0.8; LeCun et al. 1998; pairing of Ma et al. 2021",
            sha256={**used, **names},
            notes=f"training images from MNIST's {train_images} set",
        ),
    )


def _wave(name: str) -> np.ndarray:
    path = data_root() / "fsdd" / name
    try:
        rate, wave = wavfile.read(path)
    except (ValueError, EOFError, OSError) as error:
        raise BookError(f"{path} cannot be read as a sound: delete it and run again") from error
    if rate != RATE or wave.ndim != 1:
        raise BookError(f"{path} has {rate} Hz and {wave.ndim} channels: expected 8000 Hz and one")
    return (wave / 32768).astype(np.float32)
