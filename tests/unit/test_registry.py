"""Downloads: verified once, set aside when damaged, never trusted half-written, clear without a network.

A small server on this machine plays the part of the archive; nothing leaves it.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import io
from helpers.data import abide, load_cohort, registry
from helpers.errors import BookError, MissingData

PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty BOOK_DATA, and a memory of verified files of its own."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("BOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(registry.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path / "data"


@pytest.fixture
def offline(monkeypatch):
    """Every way out leads to a closed port."""
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")


class Server:
    """Serves a folder; ``asked`` lists the paths that were asked for."""

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, []
        folder.mkdir()
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *args):
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def put(self, name: str, content: bytes) -> bytes:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return content

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(tmp_path):
    it = Server(tmp_path / "served")
    yield it
    it.stop()


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files whose hash was computed."""
    names, real = [], io.sha256

    def counted(path):
        names.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(io, "sha256", counted)
    return names


# -- fetch ----------------------------------------------------------------------------------------


def test_a_file_is_downloaded_once(data, server, capsys):
    content = server.put("a.bin", b"hello")
    for _ in range(2):
        path = registry.fetch("x/a.bin", f"{server.url}/a.bin", sha(content), "CC0")
        assert path == data / "x" / "a.bin" and path.read_bytes() == content
    assert server.asked == ["/a.bin"] and tree(data) == ["x/a.bin"]
    assert "CC0" in capsys.readouterr().out


def test_a_file_is_hashed_once_a_version(data, hashed):
    path = data / "a.bin"
    path.parent.mkdir()
    path.write_bytes(b"one")
    for _ in range(3):
        registry.fetch("a.bin", "http://127.0.0.1:9/a.bin", sha(b"one"), "CC0")
    assert hashed == ["a.bin"]
    path.write_bytes(b"two")  # another version: looked at again
    with pytest.raises(BookError, match="damaged"):
        registry.fetch("a.bin", "http://127.0.0.1:9/a.bin", sha(b"one"), "CC0")
    assert hashed == ["a.bin"] * 2


def test_another_expected_hash_is_checked_again(data):
    (data / "a.bin").parent.mkdir()
    (data / "a.bin").write_bytes(b"one")
    registry.verify({data / "a.bin": sha(b"one")})
    with pytest.raises(BookError, match="damaged"):
        registry.verify({data / "a.bin": sha(b"another")})


def test_a_damaged_file_is_set_aside_and_had_anew(data, server):
    content = server.put("a.bin", b"good")
    (data / "a.bin").parent.mkdir()
    (data / "a.bin").write_bytes(b"goo")
    with pytest.raises(BookError, match=r"damaged.*a\.bin.*run again"):
        registry.fetch("a.bin", f"{server.url}/a.bin", sha(content), "CC0")
    assert tree(data) == ["a.bin.corrupt"] and server.asked == []
    assert registry.fetch("a.bin", f"{server.url}/a.bin", sha(content), "CC0").read_bytes() == b"good"


def test_in_a_read_only_folder_a_damaged_file_is_named_and_not_used(data, monkeypatch):
    (data / "a.bin").parent.mkdir()
    (data / "a.bin").write_bytes(b"bad")

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(registry.os, "replace", refuse)
    for _ in range(2):
        with pytest.raises(BookError, match=r"damaged.*a\.bin.*read-only.*BOOK_DATA"):
            registry.fetch("a.bin", "http://127.0.0.1:9/a.bin", sha(b"good"), "CC0")


def test_nowhere_to_remember_is_no_error(data, monkeypatch, hashed, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    (data / "a.bin").parent.mkdir()
    (data / "a.bin").write_bytes(b"one")
    for _ in range(2):
        registry.verify({data / "a.bin": sha(b"one")})
    assert hashed == ["a.bin"] * 2


def test_a_broken_memory_is_no_error(data, hashed):
    (data / "a.bin").parent.mkdir()
    (data / "a.bin").write_bytes(b"one")
    registry.verify({data / "a.bin": sha(b"one")})
    registry._memory(data).write_text("{half")
    registry.verify({data / "a.bin": sha(b"one")})
    assert hashed == ["a.bin"] * 2


def test_a_wrong_file_from_the_server_is_not_kept(data, server):
    server.put("a.bin", b"<html>error</html>")
    with pytest.raises(BookError, match="another checksum"):
        registry.fetch("a.bin", f"{server.url}/a.bin", sha(b"good"), "CC0")
    assert tree(data) == []


def test_a_file_the_server_does_not_have(data, server):
    with pytest.raises(MissingData, match=r"the server answered 404.*put the file there by hand"):
        registry.fetch("a.bin", f"{server.url}/a.bin", sha(b"good"), "CC0")
    assert tree(data) == []


def test_offline_the_message_says_what_from_where_and_whereto(data, offline):
    started = time.monotonic()
    with pytest.raises(MissingData) as error:
        registry.fetch("x/a.bin", "http://example.org/a.bin", sha(b"good"), "CC0")
    message = str(error.value)
    for part in (
        "a.bin",
        "http://example.org/a.bin",
        str(data / "x" / "a.bin"),
        "BOOK_DATA",
        "embedded",
        "no connection",
    ):
        assert part in message
    assert "\n" not in message and tree(data) == [] and time.monotonic() - started < 10


# -- ABIDE ----------------------------------------------------------------------------------------


@pytest.fixture
def archive(server, monkeypatch):
    """A small ABIDE: eight invented people, two sites, in the archive's own layout."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(8):
        site = "NYU" if k < 4 else "PITT"
        series = rng.standard_normal((30 + k, 200))
        if k == 5:
            series[:, 17] = 0
        text = "#" + "\t#".join(str(r + 1) for r in range(200)) + "\n"
        text += "\n".join("\t".join(f"{v:.6f}" for v in frame) for frame in series) + "\n"
        name = f"{site}_00{50100 + k}"
        content = server.put(f"Outputs/cpac/filt_global/rois_cc200/{name}_rois_cc200.1D", text.encode())
        rows.append(dict(SUB_ID=50100 + k, FILE_ID=name, SITE_ID=site, sha256=sha(content)))
    table = pd.DataFrame(rows)
    people = table.drop(columns="sha256").assign(
        DX_GROUP=[1, 2] * 4, AGE_AT_SCAN=20.5, SEX=[1, 2, 2, 1] * 2, func_mean_fd=0.1
    )
    people = people.iloc[::-1].reset_index(drop=True)  # the archive's order is not ours
    content = server.put(abide.PHENOTYPES, people.to_csv().encode())
    monkeypatch.setattr(abide, "URL", server.url)
    monkeypatch.setattr(abide, "PHENOTYPES_SHA256", sha(content))
    monkeypatch.setattr(abide, "_table", lambda: table)
    return server


def n_series(data: Path) -> int:
    return len([name for name in tree(data) if name.endswith(".1D")])


def test_abide_downloads_then_works_offline(data, archive):
    cohort = abide.load()
    assert cohort.ids.tolist() == [f"sub-00{50100 + k}" for k in range(8)]
    assert cohort.n_frames.tolist() == list(range(30, 38)) and cohort.tr.tolist() == [2.0] * 4 + [1.5] * 4
    assert cohort.participants["group"].tolist() == ["patient", "control"] * 4
    assert cohort.participants["sex"].tolist() == ["M", "F", "F", "M"] * 2
    assert cohort.repairs.to_numpy().tolist() == [
        ["sub-0050105", "CC200_18", "constant over time, set to zero"]
    ]
    assert len(cohort.provenance.sha256) == 9
    assert n_series(data) == 8 and len(tree(data)) == 9  # and no scratch
    first = np.loadtxt(archive.folder / "Outputs/cpac/filt_global/rois_cc200/NYU_0050100_rois_cc200.1D")
    np.testing.assert_allclose(cohort.series(0), first.T, rtol=1e-6)
    archive.stop()
    assert abide.load().hash == cohort.hash


def test_abide_takes_fewer_people_evenly_and_downloads_only_those(data, archive):
    cohort = abide.load(4)
    assert (cohort.participants.groupby(["site", "group"]).size() == 1).all() and len(cohort) == 4
    assert n_series(data) == 4
    assert set(cohort.ids) < set(abide.load().ids) and n_series(data) == 8


def test_abide_keeps_no_truncated_download(data, archive):
    name = "Outputs/cpac/filt_global/rois_cc200/PITT_0050106_rois_cc200.1D"
    whole = (archive.folder / name).read_bytes()
    archive.put(name, whole[: len(whole) // 2])
    with pytest.raises(BookError, match=r"PITT_0050106_rois_cc200\.1D sent a file with another checksum"):
        abide.load()
    assert not any("0050106" in n or ".download" in n or n.endswith(".part") for n in tree(data))
    archive.put(name, whole)
    archive.asked.clear()
    assert len(abide.load()) == 8
    assert sum(path.endswith(".1D") for path in archive.asked) == 2  # what was good had been kept


@pytest.mark.parametrize("which", ["series", "phenotypes"])
def test_abide_sets_a_damaged_file_aside_and_recovers(data, archive, which):
    abide.load()
    name = abide.PHENOTYPES if which == "phenotypes" else "cpac/filt_global/NYU_0050102_rois_cc200.1D"
    path = data / "nilearn" / "ABIDE_pcp" / name
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BookError, match=r"damaged.*run again") as error:
        abide.load()
    assert path.name in str(error.value)
    assert not path.exists() and path.with_name(path.name + ".corrupt").exists()
    assert len(abide.load()) == 8


def test_abide_offline_with_nothing_cached(data, offline):
    started = time.monotonic()
    with pytest.raises(MissingData) as error:
        load_cohort("public")
    message = str(error.value)
    for part in (abide.PHENOTYPES, "https://s3.amazonaws.com/fcp-indi", str(data), "embedded", "BOOK_DATA"):
        assert part in message
    assert "\n" not in message
    assert not data.exists() or list(data.iterdir()) == []
    assert time.monotonic() - started < 20


def test_abide_offline_names_the_first_series_that_is_missing(data, archive, offline, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    abide.load()
    (data / "nilearn/ABIDE_pcp/cpac/filt_global/NYU_0050102_rois_cc200.1D").unlink()
    archive.stop()
    with pytest.raises(MissingData, match=r"NYU_0050102_rois_cc200\.1D is not on this computer"):
        abide.load()
    assert n_series(data) == 7 and len(tree(data)) == 8


@pytest.mark.parametrize("n", [0, 141, -1, 2.5, "all", True])
def test_abide_refuses_a_number_of_people(data, n):
    with pytest.raises(BookError, match="n_subjects is"):
        abide.load(n)


def test_the_list_of_140_is_whole():
    table = abide.subjects()
    assert len(table) == table["SUB_ID"].nunique() == table["sha256"].nunique() == 140
    assert table["SUB_ID"].is_monotonic_increasing and set(table["SITE_ID"]) == set(abide.TR)
    assert table["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert [int(f.split("_")[-1]) for f in table["FILE_ID"]] == table["SUB_ID"].tolist()


def test_craddock_regions():
    atlas = abide.atlas()
    assert atlas.n_regions == 200 and atlas.has_coords and not atlas.has_networks
    assert atlas.labels[0] == "CC200_1" and np.abs(atlas.coords).max() < 100
