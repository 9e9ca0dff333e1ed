"""Cohorts too large for memory: Zarr version 3, sharded and compressed, on a disk or behind an address.

    store.write(cohort, "mine.zarr")              # from memory
    with store.Writer("mine.zarr", ...) as w:     # or one subject after the other, in flat memory
        w.add(series, tr=2.0, participant={...})
    mine = store.Store("s3://bucket/mine.zarr")   # lazy: opening reads a few kilobytes
    mine.window(17, 40, 160)                      # (R, 160), one subject, from frame 40
    fit(model, store.Windows(mine, length=160), workers=2, ...)

Layout: ``bold`` (S, R, T) float32 in chunks of one subject and 256 frames, many chunks to a shard (a file, or
an object in a bucket); its index stands at the front, so that plain range requests do. Every chunk carries a
CRC-32C, every subject a SHA-256, and the hash of the store follows from those. ``n_frames``, ``tr`` and
``sha256`` are arrays (S, ...), the three tables are TSV text. The attributes are written last: a store whose
writing was cut short has none and is refused.

Zarr and obstore are installed by the extra ``cluster``. Addresses of s3, gs, az and http(s) go through
obstore, all others through fsspec.
"""

from __future__ import annotations

import contextlib
import hashlib
import io as bytes_io
import os
import queue
import shutil
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import io
from helpers.data.cohort import MIN_FRAMES, Atlas, Cohort, Provenance
from helpers.errors import BookError, MissingData

FORMAT = 1
CHUNK_FRAMES = 256
SHARD_BYTES = 32 * 2**20  # of series, before compression; the writer holds one shard in memory
DIGEST = 16  # bytes of SHA-256 kept a subject
ARRAYS = ("bold", "n_frames", "tr", "sha256", "participants", "atlas", "repairs")
OBJECT_STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "http", "https")
INSTALL = "pip install 'hands-on-brain-foundation-models[cluster]' (or zarr and obstore)"


# --- where -------------------------------------------------------------------------------------------


def is_url(place: str | os.PathLike) -> bool:
    """Whether ``place`` is an address, and not a path on this machine."""
    return "://" in str(place) or "::" in str(place)


def _zarr():
    try:
        import zarr
    except ImportError:
        raise BookError(f"cohorts in Zarr need a package that is not installed: {INSTALL}") from None
    return zarr


def _backend(place: str, write: bool) -> Any:
    """What Zarr reads from or writes to."""
    zarr = _zarr()
    if not is_url(place):
        return zarr.storage.LocalStore(place, read_only=not write)
    protocol = place.partition("://")[0]
    with _readable(place, "cannot be opened"):
        if protocol in OBJECT_STORES:
            return zarr.storage.ObjectStore(_object_store(place), read_only=not write)
        return zarr.storage.FsspecStore.from_url(place, read_only=not write)


def _object_store(url: str) -> Any:
    """obstore's client. Keys and endpoint come from the usual variables (AWS_ENDPOINT_URL and so on)."""
    try:
        import obstore
    except ImportError:
        raise BookError(f"{url} needs a package that is not installed: {INSTALL}") from None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    plain = (endpoint if url.startswith("s3") else url).startswith("http://")
    return obstore.store.from_url(
        url,
        client_options={"connect_timeout": "10s", "timeout": "60s", "allow_http": plain},
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
    )


@contextlib.contextmanager
def _readable(place: str, what: str, advice: str = "") -> Iterator[None]:
    """Every failure below is one line about this store; the libraries raise dozens of kinds of error."""
    try:
        yield
    except (BookError, MemoryError):
        raise
    except Exception as error:
        first = " ".join(str(error).split("Debug source")[0].split())[:200]
        reason = first or type(error).__name__
        raise BookError(f"{place} {what}: {reason}{advice and ': ' + advice}") from error


def _diagnose(place: str, error: Exception) -> BookError:
    """Why there is no Zarr group at ``place``: the answer is looked at, where there is one."""
    head = b""
    with contextlib.suppress(Exception):
        if not is_url(place):
            head = (Path(place) / "zarr.json").read_bytes()[:300]
        elif place.partition("://")[0] in OBJECT_STORES:
            head = bytes(_object_store(place).get("zarr.json").bytes())[:300]
    if not is_url(place) and not Path(place).exists():
        return MissingData(f"no such cohort: {place} is neither a folder nor an address")
    if b"<" in head[:100] or b"<html" in head.lower():
        return BookError(
            f"{place} answers with a web page (HTML), not with data: check the address, and whether it asks"
            " for a login"
        )
    if not is_url(place) and ((Path(place) / ".zgroup").exists() or (Path(place) / ".zarray").exists()):
        return BookError(f"{place} is Zarr version 2; this book reads version 3: write it again")
    if head:
        return BookError(f"{place}: zarr.json is damaged or half-written: write the store again")
    first = " ".join(str(error).split("Debug source")[0].split())[:200]
    where = "the address cannot be read" if is_url(place) else "no zarr.json there"
    return MissingData(f"{place} is not a cohort in Zarr ({where}: {first})")


# --- writing -----------------------------------------------------------------------------------------


class Writer:
    """Writes a store subject by subject, holding one shard in memory. Use it in a ``with`` block.

    place        a new folder NAME.zarr, or an address; one that exists already is refused
    atlas        the regions, (R,)
    on_constant  as in ``Cohort.validate``: "raise", or "zero" and a line in the table of repairs
    min_frames   the shortest scan that is taken

    On a disk the folder appears whole or not at all. At an address an unfinished store stays without its
    attributes and is refused by ``Store``.
    """

    def __init__(
        self,
        place: str | os.PathLike,
        *,
        atlas: Atlas,
        provenance: Provenance,
        on_constant: str = "raise",
        min_frames: int = MIN_FRAMES,
        chunk_frames: int = CHUNK_FRAMES,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        if chunk_frames < 1 or shard_bytes < 1:
            raise BookError("chunk_frames and shard_bytes must be at least 1")
        self.place, self.atlas, self.provenance = str(place), atlas, provenance
        self.checks = {"on_constant": on_constant, "min_frames": min_frames}
        self.chunk_frames, self.shard_bytes = chunk_frames, shard_bytes
        self.waiting: list[tuple[np.ndarray, float, Mapping[str, Any]]] = []
        self.bytes_waiting = 0
        self.done: list[Cohort] = []  # without their series
        self.digests: list[bytes] = []
        self.ids: set[str] = set()
        self.per_shard = self.longest = 0
        self.bold: Any = None
        self.hash = ""

    def __enter__(self) -> Writer:
        self.remote = is_url(self.place)
        self.target = self.place
        if self.remote:
            self.backend = _backend(self.place, write=True)
            if _exists(self.backend, self.place):
                raise BookError(f"{self.place} exists already: write the cohort under another name")
        else:
            path = Path(self.place)
            if path.exists():
                raise BookError(f"{path} exists already: write the cohort under another name")
            self.scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            io.make_folder(self.scratch.parent)
            self.target = str(self.scratch)
            self.backend = _backend(self.target, write=True)
        try:
            with self._writing():
                self.group = _zarr().create_group(self.backend, zarr_format=3)
        except BookError:
            self._clean()
            raise
        return self

    def _clean(self) -> None:
        if not self.remote:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._clean()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with _readable(self.place, "cannot be written"):
                yield
        except BookError as error:
            if isinstance(error.__cause__, OSError) and (told := io.explain(error.__cause__, self.place)):
                raise told from error.__cause__
            raise

    def add(self, series: np.ndarray, *, tr: float, participant: Mapping[str, Any]) -> None:
        """One subject: series (R, T_s), repetition time in seconds, its row of the participants table."""
        series = np.asarray(series)
        name = str(participant.get("participant_id", ""))
        if name in self.ids:
            raise BookError(f"participants: {name} appears twice: one row a subject")
        self.ids.add(name)
        self.waiting.append((series, tr, participant))
        self.bytes_waiting += series.size * 4
        full = self.bytes_waiting >= self.shard_bytes if not self.per_shard else False
        if full or (self.per_shard and len(self.waiting) == self.per_shard):
            self._flush()

    def _flush(self) -> None:
        """Check the waiting subjects as ``Cohort.validate`` does and write them as the next shard."""
        part = Cohort.validate(
            bold=[series for series, _, _ in self.waiting],
            participants=pd.DataFrame([row for _, _, row in self.waiting]),
            tr=[tr for _, tr, _ in self.waiting],
            provenance=self.provenance,
            atlas=self.atlas,
            **self.checks,
        )
        self.digests += [_digest(part.series(s)) for s in range(len(part))]
        start = sum(len(done) for done in self.done)
        stop, longest = start + len(part), int(part.n_frames.max())
        self.longest = max(self.longest, longest)
        with self._writing():
            if self.bold is None:
                self.per_shard = len(part)
                self.bold = self._create_bold(longest)
            S, R, T = self.bold.shape
            self.bold.resize((max(stop, S), R, max(longest, T)))
            self.bold[start:stop, :, :longest] = part.bold
        self.done.append(
            Cohort(
                bold=np.empty((len(part), 0, 0), np.float32),
                n_frames=part.n_frames,
                tr=part.tr,
                participants=part.participants,
                atlas=part.atlas,
                provenance=part.provenance,
                repairs=part.repairs,
            )
        )
        self.waiting, self.bytes_waiting = [], 0

    def _create_bold(self, longest: int) -> Any:
        zarr = _zarr()
        chunks = -(-longest // self.chunk_frames)
        shard = (self.per_shard, self.atlas.n_regions, chunks * self.chunk_frames)
        return self.group.create_array(
            "bold",
            shape=(0, self.atlas.n_regions, longest),
            dtype="float32",
            chunks=(1, self.atlas.n_regions, self.chunk_frames),
            shards={"shape": shard, "index_location": "start"},
            compressors=[
                zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=4),
                zarr.codecs.Crc32cCodec(),
            ],
            fill_value=np.nan,
            config={"write_empty_chunks": False},
            dimension_names=("subject", "region", "frame"),
        )

    def _finish(self) -> None:
        if self.waiting:
            self._flush()
        if not self.done:
            raise BookError(f"{self.place}: no subject was added: nothing is written")
        parts, self.done = self.done, []
        participants = pd.concat([p.participants for p in parts], ignore_index=True)
        repairs = pd.concat([p.repairs for p in parts], ignore_index=True)
        n_frames = np.concatenate([p.n_frames for p in parts]).astype(np.int32)
        tr = np.concatenate([p.tr for p in parts])
        digests = np.frombuffer(b"".join(self.digests), np.uint8).reshape(-1, DIGEST)
        regions = pd.DataFrame({"label": self.atlas.labels, "network": self.atlas.networks})
        coords = pd.DataFrame(self.atlas.coords, columns=["x", "y", "z"])
        people = _text(participants)
        self.hash = _identity(self.atlas.n_regions, digests, n_frames, tr, people)
        arrays = {
            "n_frames": n_frames,
            "tr": tr,
            "sha256": digests,
            "participants": people,
            "atlas": _text(regions.join(coords)),
            "repairs": _text(repairs),
        }
        with self._writing():
            for name, values in arrays.items():
                chunks = (min(len(values), 2**20) or 1, *values.shape[1:])
                array = self.group.create_array(
                    name, shape=values.shape, dtype=values.dtype, chunks=chunks,
                    compressors=[_zarr().codecs.ZstdCodec(level=5), _zarr().codecs.Crc32cCodec()],
                )  # fmt: skip
                array[:] = values
            about = {"format": FORMAT, "hash": self.hash, "atlas": self.atlas.name}
            self.group.update_attributes({"cohort": about | {"provenance": asdict(self.provenance)}})
            # so that one request opens the store; readers that do not know of it lose nothing
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Consolidated metadata")
                _zarr().consolidate_metadata(self.backend, zarr_format=3)
            if not self.remote:
                os.rename(self.scratch, self.place)


def _exists(backend: Any, place: str) -> bool:
    zarr = _zarr()
    with _readable(place, "cannot be read"):
        try:
            zarr.open_group(backend, mode="r", zarr_format=3)
        except (FileNotFoundError, KeyError):
            return False
    return True


def _text(table: pd.DataFrame) -> np.ndarray:
    """A table as the bytes of its TSV."""
    return np.frombuffer(table.to_csv(sep="\t", index=False, na_rep="n/a").encode(), np.uint8)


def _digest(series: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(series, "<f4").data).digest()[:DIGEST]


def _identity(
    n_regions: int, digests: np.ndarray, n_frames: np.ndarray, tr: np.ndarray, people: np.ndarray
) -> str:
    """12 hex digits that stand for the data: order, series, lengths, TRs and the participants table."""
    whole = hashlib.sha256(f"{n_regions}".encode())
    for part in (digests, n_frames.astype("<i8"), tr.astype("<f8"), people):
        whole.update(np.ascontiguousarray(part).data)
    return whole.hexdigest()[:12]


def write(cohort: Cohort, place: str | os.PathLike, **options: Any) -> Store:
    """Write a cohort that is in memory as a store and open it. ``options`` are those of ``Writer``."""
    options = {"on_constant": "zero", "min_frames": 1} | options
    rows = cohort.participants.to_dict("records")
    with Writer(place, atlas=cohort.atlas, provenance=cohort.provenance, **options) as writer:
        for s, row in enumerate(rows):
            writer.add(cohort.series(s), tr=cohort.tr[s], participant=row)
    return Store(place, expect=writer.hash)


# --- reading -----------------------------------------------------------------------------------------


class Store:
    """A cohort on a disk or behind an address; series are read when asked for.

    ``expect`` is the hash that the data must have, for example that of the run that is resumed.
    It has what ``records.Run.data`` asks of a cohort: provenance, hash, length, n_regions.
    """

    def __init__(self, place: str | os.PathLike, *, expect: str | None = None) -> None:
        self.place = str(place)
        self._open()
        if self.hash != self._hash_of_tables():
            raise BookError(f"{self.place}: the tables do not fit the hash {self.hash}: write it again")
        if expect is not None and expect != self.hash:
            raise BookError(
                f"{self.place} has changed: its hash is {self.hash}, expected was {expect}: take the data of"
                " the earlier run, or begin a new one"
            )

    def _open(self) -> None:
        zarr = _zarr()
        backend = _backend(self.place, write=False)
        try:
            self._group = zarr.open_group(backend, mode="r", zarr_format=3)
        except Exception as error:
            raise _diagnose(self.place, error) from error
        self._pid = os.getpid()
        about = self._group.attrs.get("cohort")
        if not isinstance(about, dict):
            raise BookError(
                f"{self.place} is no cohort of this book, or its writing was cut short: write it again"
            )
        if about.get("format") != FORMAT:
            raise BookError(
                f"{self.place} has format {about.get('format')}, this book reads {FORMAT}: write it again"
            )
        missing = [name for name in ARRAYS if name not in self._group]
        if missing:
            raise BookError(f"{self.place} lacks the array {', '.join(missing)}: write it again")
        with _readable(self.place, "is damaged", "write it again"):
            self.hash = str(about["hash"])
            self.provenance = Provenance(**about["provenance"])
            self._atlas_name = about["atlas"]
            self.n_frames = self._group["n_frames"][:].astype(int)
            self.tr = self._group["tr"][:]
            self._digests = self._group["sha256"][:]
            self._bold = self._group["bold"]
            shape = (len(self.n_frames), self._bold.shape[1], int(self.n_frames.max()))
        if self._bold.shape != shape or not len(self.tr) == len(self._digests) == shape[0]:
            raise BookError(f"{self.place}: the arrays do not fit together: write it again")

    def _hash_of_tables(self) -> str:
        with _readable(self.place, "has a damaged table participants", "write it again"):
            people = self._group["participants"][:]
        return _identity(self.n_regions, self._digests, self.n_frames, self.tr, people)

    def _array(self) -> Any:
        """The series; a worker process of a DataLoader opens the store anew."""
        if os.getpid() != self._pid:
            if is_url(self.place):  # the threads that hold the connections do not survive a fork
                raise BookError(
                    f"{self.place}: worker processes made by fork cannot read from an address: take"
                    " workers=0, a DataLoader with multiprocessing_context='spawn', or store.ahead"
                )
            self._open()
        return self._bold

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "hash": self.hash}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["place"], expect=state["hash"])

    def __len__(self) -> int:
        return len(self.n_frames)

    @property
    def n_regions(self) -> int:
        return int(self._bold.shape[1])

    def _table(self, name: str) -> pd.DataFrame:
        with _readable(self.place, f"has a damaged table {name}", "write it again"):
            text = bytes(self._group[name][:])
            return pd.read_csv(bytes_io.BytesIO(text), sep="\t", dtype=str, keep_default_na=False)

    @cached_property
    def ids(self) -> np.ndarray:
        """Participant ids, (S,) str."""
        return self._table("participants")["participant_id"].to_numpy(str)

    @property
    def participants(self) -> pd.DataFrame:
        """The participants table, with numbers as numbers."""
        from helpers.data.cohort import _numbers

        return _numbers(self._table("participants"))

    @property
    def repairs(self) -> pd.DataFrame:
        return self._table("repairs")

    @cached_property
    def atlas(self) -> Atlas:
        table = self._table("atlas")
        coords = table[["x", "y", "z"]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
        return Atlas(self._atlas_name, table["label"].to_numpy(str), table["network"].to_numpy(str), coords)

    def __repr__(self) -> str:
        low, high = int(self.n_frames.min()), int(self.n_frames.max())
        frames = f"{low}" if low == high else f"{low}-{high}"
        return (
            f"Store({self.provenance.name}: {len(self)} subjects, {self.n_regions} regions, {frames} frames,"
            f" {self.hash}, {self.place})"
        )

    # -- series ----------------------------------------------------------------------------------------

    def _shard(self, s: int) -> str:
        return f"subject {self.ids[s]} (shard bold/c/{s // self._bold.shards[0]})"

    def _whole(self, x: np.ndarray, s: int) -> np.ndarray:
        if not np.isfinite(x).all():
            what = "its shard is missing or incomplete" if np.isnan(x).all() else "NaN or infinite values"
            raise BookError(f"{self.place}: {what} in {self._shard(s)}: copy or write the store again")
        return x

    def series(self, s: int) -> np.ndarray:
        """Series of subject number ``s``, (R, n_frames[s]) float32."""
        return self.window(s, 0, int(self.n_frames[self._index(s)]))

    def window(self, s: int, start: int, length: int) -> np.ndarray:
        """``length`` frames of subject number ``s`` from frame ``start``, (R, length) float32."""
        s = self._index(s)
        n = int(self.n_frames[s])
        if not (0 <= start and length >= 1 and start + length <= n):
            raise BookError(
                f"subject {self.ids[s]} has {n} frames: no window of {length} frames begins at {start}"
            )
        with _readable(self.place, f"cannot be read at {self._shard(s)}", "copy or write the store again"):
            x = self._array()[s, :, start : start + length]
        return self._whole(x, s)

    def _index(self, s: int) -> int:
        if not -len(self) <= s < len(self):
            raise BookError(f"no subject number {s}: the store has {len(self)}")
        return int(s) % len(self)

    def windows(self, subjects: Sequence[int], starts: Sequence[int], length: int) -> np.ndarray:
        """Many windows at once, (B, R, length); all are asked for before the first is waited for."""
        import asyncio

        from zarr.core.sync import sync

        for s, t in zip(subjects, starts, strict=True):
            if not 0 <= t <= self.n_frames[s] - length:
                self.window(int(s), int(t), length)  # raises, with its reason
        array = self._array().async_array

        async def read() -> list[np.ndarray]:
            wanted = zip(subjects, starts, strict=True)
            return await asyncio.gather(
                *(array.getitem((int(s), slice(None), slice(int(t), int(t) + length))) for s, t in wanted)
            )

        if len(subjects) == 0:
            return np.empty((0, self.n_regions, length), np.float32)
        what = f"cannot be read at {self._shard(int(subjects[0]))} or one of {len(subjects) - 1} others"
        with _readable(self.place, what, "copy or write the store again"):
            found = sync(read())
        return np.stack([self._whole(np.asarray(x), int(s)) for x, s in zip(found, subjects, strict=True)])

    # -- the whole -------------------------------------------------------------------------------------

    def cohort(self, index: Any = None) -> Cohort:
        """The subjects of ``index`` (default: all) in memory, checked against their SHA-256."""
        index = np.arange(len(self)) if index is None else np.arange(len(self))[index]
        if index.ndim != 1 or len(index) == 0:
            raise BookError(f"{index.size} of {len(self)} subjects picked: give a list, a mask or a slice")
        series = [self._verified(int(s)) for s in index]
        people = self.participants.iloc[index].reset_index(drop=True)
        cohort = Cohort.validate(
            bold=series,
            participants=people,
            tr=self.tr[index],
            provenance=self.provenance,
            atlas=self.atlas,
            on_constant="zero",
            min_frames=1,
        )
        fields = {name: getattr(cohort, name) for name in Cohort.__dataclass_fields__}
        repairs = self.repairs
        kept = repairs["participant_id"].isin(people["participant_id"])
        return Cohort(**fields | {"repairs": repairs[kept].reset_index(drop=True)})

    def _verified(self, s: int) -> np.ndarray:
        x = self.series(s)
        if _digest(x) != self._digests[s].tobytes():
            raise BookError(
                f"{self.place}: {self._shard(s)} has changed since it was written (checksum): copy or write"
                " the store again"
            )
        return x

    def verify(self) -> None:
        """Read every series and check it. Raises BookError naming the first subject that differs."""
        for s in range(len(self)):
            self._verified(s)


def load(place: str | os.PathLike, n_subjects: int | None = None) -> Cohort:
    """A cohort in memory from a folder of ``Cohort.save``, a store, or the address of a store.

    ``n_subjects`` takes the first so many (of a store only those are read).
    """
    if not is_url(place) and (Path(place) / "provenance.json").is_file():
        cohort: Cohort | Store = Cohort.open(place)
    else:
        cohort = Store(place)
    if n_subjects is not None and not 0 < n_subjects <= len(cohort):
        raise BookError(f"n_subjects is {n_subjects}, {place} holds {len(cohort)}")
    if isinstance(cohort, Store):
        return cohort.cohort(slice(n_subjects))
    return cohort if n_subjects is None else cohort.select(slice(n_subjects))


# --- training ----------------------------------------------------------------------------------------


class Windows:
    """Random windows of a store as training data for ``fit``: example ``i`` is (bold (R, length), index).

    Each epoch draws one window from every subject of ``subjects`` (default: all), ``repeats`` times. Where it
    begins depends on the epoch's seed and on ``i``, not on the order of reading or the number of workers
    (from one on). ``set_epoch`` makes it depend on ``seed`` and the epoch alone, over any number of
    processes. Read with ``fit(..., workers=2)``: the workers fetch batches ahead.

    Windows are counted in frames, so the repetition times must agree (within 1 %) unless ``mixed_tr``.
    """

    def __init__(
        self,
        store: Store,
        *,
        length: int,
        subjects: Sequence[int] | None = None,
        repeats: int = 1,
        seed: int = 0,
        mixed_tr: bool = False,
    ) -> None:
        self.store, self.length, self.repeats, self.seed = store, length, repeats, seed
        self.subjects = np.arange(len(store)) if subjects is None else np.asarray(subjects, dtype=int)
        self.epoch: int | None = None
        if repeats < 1 or length < 1 or len(self.subjects) == 0:
            raise BookError("windows: give length and repeats of at least 1, and at least one subject")
        if self.subjects.min() < 0 or self.subjects.max() >= len(store):
            raise BookError(f"windows: a subject number is outside 0..{len(store) - 1}")
        short = self.subjects[store.n_frames[self.subjects] < length]
        if len(short):
            few = ", ".join(f"{store.ids[s]} ({store.n_frames[s]})" for s in short[:3])
            raise BookError(
                f"{len(short)} scans are shorter than a window of {length} frames: {few}: take a shorter"
                " window, or leave them out"
            )
        trs = store.tr[self.subjects]
        if not mixed_tr and trs.max() > 1.01 * trs.min():
            found = ", ".join(f"{tr:g}" for tr in np.unique(trs)[:5])
            raise BookError(
                f"the scans have different repetition times ({found} s), so equal numbers of frames are"
                " different spans of time: resample them (helpers.ingest --tr), choose subjects, or pass"
                " mixed_tr=True"
            )

    def __len__(self) -> int:
        return len(self.subjects) * self.repeats

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def fingerprint(self) -> dict[str, int]:
        """What a checkpoint should remember of these data."""
        return {"examples": len(self), "data checksum": int(self.store.hash, 16)}

    def _key(self) -> tuple[int, int]:
        if self.epoch is not None:
            return self.seed, self.epoch
        import torch

        info = torch.utils.data.get_worker_info()  # fit seeds torch anew in each epoch
        return self.seed, torch.initial_seed() if info is None else info.seed - info.id

    def start(self, i: int) -> int:
        """First frame of example ``i``'s window in this epoch."""
        room = int(self.store.n_frames[self.subjects[i % len(self.subjects)]]) - self.length + 1
        return int(np.random.SeedSequence((*self._key(), i)).generate_state(1)[0] % room)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.__getitems__([i])[0]

    def __getitems__(self, index: Sequence[int]) -> list[tuple[Any, int]]:
        """A whole batch in as few requests as its chunks allow; torch's DataLoader calls it."""
        import torch

        subjects = [int(self.subjects[i % len(self.subjects)]) for i in index]
        x = self.store.windows(subjects, [self.start(i) for i in index], self.length)
        return [(torch.from_numpy(row), s) for row, s in zip(x, subjects, strict=True)]


def ahead(batches: Iterable[Any], depth: int = 2) -> Iterator[Any]:
    """The same items, read by a thread ``depth`` items ahead of their use (for loops without ``fit``)."""
    box: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(item: tuple[str, Any]) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                box.put(item, timeout=0.1)
                return True
        return False

    def read() -> None:
        try:
            for item in batches:
                if not put(("item", item)):
                    return
            put(("end", None))
        except BaseException as error:
            put(("error", error))

    threading.Thread(target=read, daemon=True, name="ahead").start()
    try:
        while True:
            kind, item = box.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
    finally:
        stop.set()


# --- command line --------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """``python -m helpers.store write FOLDER PLACE``, ``export PLACE FOLDER``, ``verify PLACE``; 0, or 2."""
    import argparse
    import sys

    parser = argparse.ArgumentParser(prog="python -m helpers.store", description="Cohorts in Zarr.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words, text in (
        ("write", ("source", "target"), "a folder of Cohort.save as a store, on a disk or at an address"),
        ("export", ("source", "target"), "a store as a folder of Cohort.save, which every chapter reads"),
        ("verify", ("source",), "read every series and compare it with its SHA-256"),
    ):
        command = commands.add_parser(name, help=text)
        for word in words:
            command.add_argument(word)
    given = parser.parse_args(arguments)
    try:
        if given.command == "verify":
            mine = Store(given.source)
            mine.verify()
            print(f"whole: {mine!r}")
        elif given.command == "write":
            print(repr(write(Cohort.open(given.source), given.target)))
        else:
            cohort = load(given.source)
            print(f"{cohort.save(given.target)}: {cohort!r}")
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
