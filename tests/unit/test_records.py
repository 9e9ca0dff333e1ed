"""records: what is kept, what is refused, and what the pages read."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_book import CHAPTER, code, make_book, write_notebook

from helpers import chapters, io, records
from helpers.errors import BookError, MissingData
from helpers.evaluate import Estimate


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("BOOK_RUN_DIR", "BOOK_RESUME", "BOOK_RUNS", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return make_book(tmp_path)


def start(**given):
    options = {"profile": "public", "seed": 7, "parameters": {"seed": 7, "drop_rate": 0.2}} | given
    return records.start(CHAPTER, **options)


@pytest.fixture
def ran(book, monkeypatch):
    """The folder of a public run that ended well."""
    folder = book / "_runs" / CHAPTER / "public"
    monkeypatch.setenv("BOOK_RUN_DIR", str(folder))
    run = start()
    monkeypatch.delenv("BOOK_RUN_DIR")
    run.log(auc=Estimate(0.73, 0.65, 0.80), n=3)
    run.finish()
    os.replace(folder / records.PENDING, folder / records.RECORD)
    return folder


# --- a run -------------------------------------------------------------------------------------------


def test_finish_by_hand_writes_a_valid_record_and_shows_it(book):
    table = start().log(auc=0.7).finish()
    record = records.read(book / "_runs" / CHAPTER / "interactive" / "record.json")
    assert record.metrics == {"auc": 0.7} and record.parameters == {"seed": 7, "drop_rate": 0.2}
    assert record.notebook_sha256 == chapters.notebook_sha256(CHAPTER)
    assert record.peak_memory_mb > 20 and record.hardware["cores"] >= 1 and record.versions["torch"]
    assert table.loc["chapter", "value"] == CHAPTER and table.loc["seed", "value"] == "7"


def test_under_the_runner_the_record_waits_to_be_found_good(book, monkeypatch):
    monkeypatch.setenv("BOOK_RUN_DIR", str(book / "here"))
    monkeypatch.setenv("BOOK_RESUME", "1")
    run = start()
    run.finish()
    assert os.listdir(book / "here") == [records.PENDING]
    assert run.resume and run.checkpoint("pretrain") == book / "here" / "checkpoints" / "pretrain"
    assert records.read(book / "here" / records.PENDING).resumed


def test_only_the_first_process_writes(book, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert len(start().finish())
    assert not (book / "_runs").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b"])
def test_checkpoint_names(book, name):
    with pytest.raises(BookError, match="checkpoint name"):
        start().checkpoint(name)


def test_metrics_of_all_kinds(book):
    run = start()
    run.log(a=1, b=0.5, c=np.float32(0.25), d=np.int64(4), e=torch.tensor(2.0), f=np.array(3.0))
    run.log(auc=SimpleNamespace(value=np.float64(0.7), lo=0.6, hi=0.8))
    assert run.metrics == {
        "a": 1, "b": 0.5, "c": 0.25, "d": 4, "e": 2.0, "f": 3.0, "auc": 0.7, "auc_lo": 0.6, "auc_hi": 0.8
    }  # fmt: skip
    assert all(type(value) in (int, float) for value in run.metrics.values())


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("auc", float("nan"), "metric auc is nan"),
        ("auc", np.inf, "metric auc is inf"),
        ("auc", SimpleNamespace(value=0.7, lo=float("nan"), hi=1), "metric auc_lo is nan"),
        ("auc", True, "metric auc: bool is not a number"),
        ("auc", "0.7", "metric auc: str is not a number"),
        ("auc", np.ones(2), "metric auc: ndarray is not a number"),
        ("AUC", 0.5, "metric 'AUC': use small letters"),
    ],
)
def test_metrics_that_are_refused(book, name, value, words):
    run = start().log(kept=1)
    with pytest.raises(BookError, match=words):
        run.log(**{name: value})
    assert run.metrics == {"kept": 1}


def test_parameters_are_the_annotated_plain_values():
    names: dict = {}
    exec("import os\na: int = 1\nb: list[str] = ['x']\nc: str | None = None\nplain = 3\nd: dict = {}", names)
    names["a"] = 5
    assert records.parameters(names) == {"a": 5, "b": ["x"], "c": None}


def test_start_keeps_only_the_chapter_s_parameters(book):
    assert start(parameters={"seed": 7, "widths": [8], "other": 3}).parameters == {"seed": 7, "widths": [8]}


@pytest.mark.parametrize(
    "given, words", [({"profile": "pubic"}, "did you mean public"), ({"seed": "7"}, "seed: '7'")]
)
def test_start_refuses(book, given, words):
    with pytest.raises(BookError, match=words):
        start(**given)


def test_data_is_described_once(book):
    provenance = SimpleNamespace(
        name="ABIDE", source="https://x.org/a/b", licence="CC", sha256={"a": "1", "b": "2"}
    )

    class Cohort:
        n_regions = 200
        hash = "abcd"

        def __len__(self):
            return 140

    Cohort.provenance = provenance
    run = start().data(Cohort()).data(Cohort())
    (entry,) = run.sources
    assert (entry["name"], entry["hash"], entry["n_subjects"], entry["files"]) == ("ABIDE", "abcd", 140, 2)
    assert len(entry["files_sha256"]) == 64
    run.finish()
    with pytest.raises(BookError, match="no provenance"):
        run.data(np.ones(3))


def test_no_local_path_in_a_record(book, monkeypatch):
    write_notebook(book, [code("cohort: str = ''  # folder\nseed: int = 7  # seed", "parameters")])
    run = start(parameters={"cohort": "/home/ann/my data/abide", "seed": 7})
    run.data(
        SimpleNamespace(name="own", source="from /home/ann/abide/x.npz, see https://a.org/b/c", licence="CC")
    )
    run.finish()
    text = (run.dir / records.RECORD).read_text()
    assert "ann" not in text and str(book) not in text
    assert ".../abide" in text and "https://a.org/b/c" in text


@pytest.mark.parametrize("path", ["/home/ann/x", "~/x/y", "see /data/x/y", r"C:\Users\ann", "file:///x"])
def test_a_record_with_a_local_path_is_refused(ran, path):
    content = io.read_json(ran / "record.json")
    content["versions"]["torch"] = path
    with pytest.raises(BookError, match=r"versions\.torch tells a path"):
        records.validate(content, "here")


# --- reading -----------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(ran):
    record = records.read(ran / "record.json")
    assert records.validate(json.loads(json.dumps(record.as_dict())), "here") == record


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.pop("seed"), "'seed' is a required property"),
        (lambda c: c.update(schema=0), "schema"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c["metrics"].update(auc="0.7"), r"metrics\.auc"),
        (lambda c: c.update(profile="pubic"), "profile"),
        (lambda c: c.update(notebook_sha256="12"), "notebook_sha256"),
        (lambda c: c.update(created_utc="today"), "created_utc"),
    ],
)
def test_an_invalid_record_names_the_field(ran, change, words):
    content = io.read_json(ran / "record.json")
    change(content)
    with pytest.raises(BookError, match=words):
        records.validate(content, "here")


def test_half_written_records_are_refused_everywhere(ran):
    records.keep(CHAPTER, "public")
    kept = records.records_root() / CHAPTER / "public.json"
    for file, read in (
        (ran / "record.json", lambda: records.keep(CHAPTER, "public")),
        (kept, lambda: records.load(CHAPTER, "public")),
        (kept, lambda: records.glance(CHAPTER)),
        (kept, lambda: records.metric(CHAPTER, "public", "auc")),
    ):
        whole = file.read_text()
        file.write_text(whole[: len(whole) // 2])
        with pytest.raises(BookError, match=rf"{file.name} is damaged or half-written"):
            read()
        file.write_text(whole)


# --- stale -------------------------------------------------------------------------------------------


def test_stale_names_what_changed(ran, monkeypatch):
    record = records.read(ran / "record.json")
    assert record.stale() == record.stale(strict=True) == []
    assert {"helpers.evaluate", "helpers.records"} <= set(record.helpers_sha256)
    real = records._source_sha256
    changed = {"helpers.evaluate", "helpers.io"}
    monkeypatch.setattr(records, "_source_sha256", lambda m: "0" * 64 if m in changed else real(m))
    assert record.stale() == ["helpers.evaluate"]
    assert record.stale(strict=True) == ["helpers.evaluate", "helpers.io"]
    write_notebook(ran.parents[2], [code("x = 1")])
    assert record.stale() == ["notebook", "helpers.evaluate"]


def test_a_module_that_is_gone_is_stale(ran):
    content = io.read_json(ran / "record.json")
    content["helpers_sha256"] |= {"helpers.gone": "0" * 64, "notebooks/09_gone": "0" * 64}
    assert records.validate(content, "here").stale() == ["helpers.gone", "notebooks/09_gone"]


def test_a_loaded_chapter_counts(book):
    write_notebook(book, [code("def f():\n    return 1")], "04_other")
    try:
        chapters.load("04_other")
        record = start().record()
        assert record.stale() == []
        write_notebook(book, [code("def f():\n    return 2")], "04_other")
        assert record.stale() == ["notebooks/04_other"]
    finally:
        sys.modules.pop("helpers_chapter_04_other")


def test_assets_and_packages_have_a_hash():
    for module in ("helpers", "helpers.assets", "helpers.data", "helpers.simulate.bold", "helpers.train"):
        assert len(records._source_sha256(module)) == 64, module


# --- keeping -----------------------------------------------------------------------------------------


def test_keep_on_the_command_line(ran):
    command = [sys.executable, "-m", "helpers.records", "keep", CHAPTER, "public"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"runs/{CHAPTER}/public.json\n", "")
    assert records.load(CHAPTER, "public") == records.read(ran / "record.json")


def test_keep_without_a_run(book, capsys):
    assert records.main(["keep", CHAPTER, "full"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no finished full run of 03_tiny" in error and "--profile full" in error
    assert not (book / "runs").exists()


def test_keep_refuses_a_record_of_another_run(ran):
    (ran.parent / "full").mkdir()
    (ran.parent / "full" / "record.json").write_bytes((ran / "record.json").read_bytes())
    with pytest.raises(BookError, match="is a record of 03_tiny, public"):
        records.keep(CHAPTER, "full")
    with pytest.raises(BookError, match="unknown chapter"):
        records.keep("03_tinny", "full")
    with pytest.raises(MissingData):
        records.keep(CHAPTER, "embedded")


# --- pages -------------------------------------------------------------------------------------------


def test_pages_without_records(book):
    table = records.glance(CHAPTER)
    assert table["state"].to_dict() == {
        "embedded": "not run", "public": "not run", "full": "not run at full scale"
    }  # fmt: skip
    assert records.metric(CHAPTER, "public", "auc") is None and records.load(CHAPTER, "public") is None
    assert records.note(CHAPTER, "full").endswith("not run at full scale.")


def test_pages_outside_the_repository(book, monkeypatch):
    monkeypatch.setattr(records, "repo_root", lambda: None)
    assert set(records.glance(CHAPTER)["state"]) == {"the book has the records"}
    assert records.compare(CHAPTER, {}, ["auc"]).loc["auc", "full (record)"] == "the book has the records"


def test_pages_with_a_record(ran, monkeypatch):
    records.keep(CHAPTER, "public")
    assert records.metric(CHAPTER, "public", "auc") == Estimate(0.73, 0.65, 0.80)
    assert records.metric(CHAPTER, "public", "n") == 3
    assert records.metric(CHAPTER, "public", "none") is None
    row = records.glance(CHAPTER).loc["public"]
    assert row["state"] == "current" and row["time"].endswith(" s") and "core" in row["machine"]
    assert records.note(CHAPTER, "public").startswith("The public record is of ")
    assert "earlier version" not in records.note(CHAPTER, "public")
    write_notebook(ran.parents[2], [code("x = 1")])
    assert records.note(CHAPTER, "public").endswith("made with an earlier version of: notebook.")
    assert "earlier version of: notebook" in records.glance(CHAPTER).loc["public", "state"]


def test_compare(ran):
    records.keep(CHAPTER, "public")
    live = {"auc": Estimate(0.61, 0.50, 0.70), "p": 0.0004}
    rows = {"AUC": "auc", "p": "p", "n": "n"}
    table = records.compare(CHAPTER, live, rows, {"auc": 0.71, "n": 64000})
    assert table.loc["AUC"].tolist() == [
        "0.71", "0.61 [0.50, 0.70]", "0.73 [0.65, 0.80]", "not run at full scale"
    ]  # fmt: skip
    assert table.loc["p"].tolist()[:3] == ["not available to us", "0.0004", "not recorded"]
    assert table.loc["n"].tolist()[:3] == ["64,000", "not computed", "3"]
    run = start().log(auc=live["auc"])
    assert records.compare(CHAPTER, run, ["auc"]).loc["auc", "embedded (live)"] == "0.61 [0.50, 0.70]"


@pytest.mark.parametrize(
    "value, text", [(8.2, "8 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_seconds(value, text):
    assert records.seconds(value) == text


def test_git_revision_and_local_changes(book):
    def git(*words):
        who = ["-c", "user.name=x", "-c", "user.email=x@x.org"]
        subprocess.run(["git", *who, *words], check=True, capture_output=True)

    assert start().record().git_revision is None
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "x")
    record = start().record()
    assert len(record.git_revision) == 40 and record.git_dirty is False
    (book / "_config.yml").write_text("x")
    assert start().record().git_dirty is True


def test_committed_records_are_valid():
    root = records.repo_root()
    for file in sorted(root.glob("runs/*/*.json")):
        record = records.read(file)
        assert (record.chapter, f"{record.profile}.json") == (file.parent.name, file.name)
