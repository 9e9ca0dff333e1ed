"""Made-up input at every border: a valid result or one of our errors in one line, never anything else.

Hypothesis writes the inputs; the numbers below add up to more than 500. ``derandomize`` gives every machine
the same ones; set BOOK_FUZZ to a factor to try other and more.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_book import CHAPTER, make_book, write_config

from helpers import chapters, io, records, run, store, sweep
from helpers.data import Atlas, Cohort, Provenance
from helpers.errors import BookError
from helpers.ingest import participants
from helpers.simulate import bold

FACTOR = int(os.environ.get("BOOK_FUZZ", "0"))
ABOUT = Provenance("fuzz", "made up", "none", "none")


def tries(n: int):
    return settings(
        max_examples=n * max(FACTOR, 1), derandomize=FACTOR == 0, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def survives(action) -> object | None:
    """The result, or None after one of our errors; whatever else is raised fails the test."""
    try:
        return action()
    except BookError as error:
        assert str(error) and "\n" not in str(error) and "Traceback" not in str(error)
        return None


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    root = make_book(tmp_path_factory.mktemp("book"))
    before = os.getcwd()
    os.chdir(root)
    yield root
    os.chdir(before)


KNOWN = ["profile", "seed", "drop_rate", "widths", "kind", "cohort", "verbose"]
names = st.sampled_from([*KNOWN, "Seed", "", "drop-rate"]) | st.text(max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["pearson", "1e-4", "nan", "public", 0.5, -1, 2**70, "0:3", "a,b"])
)  # fmt: skip
nested = st.recursive(
    scalars,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3),
    max_leaves=6,
)
texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=60)


# --- parameter files and command lines -------------------------------------------------------------------


@tries(90)
@given(values=st.dictionaries(names, nested, max_size=4))
def test_parameter_files_with_any_values(book, values):
    with suppress(yaml.YAMLError):
        write_config(book, yaml.safe_dump(values, allow_unicode=True))
        found = survives(lambda: run.resolve(CHAPTER, "public"))
        if found is not None:
            assert set(found) == set(KNOWN) and set(values) <= set(KNOWN)
            assert 0 <= found["drop_rate"] <= 0.95 and found["profile"] == "public"


@tries(70)
@given(content=st.binary(max_size=60) | texts.map(str.encode))
def test_parameter_files_with_any_bytes(book, content):
    write_config(book, "")
    (book / "configs" / "public" / f"{CHAPTER}.yml").write_bytes(content)
    survives(lambda: run.resolve(CHAPTER, "public"))


@tries(70)
@given(words=st.lists(st.tuples(names, st.text(max_size=12) | scalars.map(str)), max_size=3))
def test_words_of_the_command_line(book, words):
    known = chapters.parameters(CHAPTER)
    given_words = [f"{name}={value}" for name, value in words]
    values = survives(lambda: run.from_text(given_words, known))
    if values is not None:
        survives(lambda: run.resolve(CHAPTER, "embedded", values))
    axes = survives(lambda: sweep.grid(given_words, known))
    if axes is not None:
        survives(lambda: sweep.plan(CHAPTER, "embedded", axes, {}, Path("x")))


# --- records ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(book) -> dict:
    made = records.start(CHAPTER, profile="embedded", seed=1, parameters={"drop_rate": 0.5})
    return made.log(auc=0.7, auc_lo=0.6, auc_hi=0.8).record().as_dict()


@tries(90)
@given(data=st.data())
def test_records_with_one_field_changed(book, record, data):
    spoiled = json.loads(json.dumps(record))
    field = data.draw(st.sampled_from(sorted(spoiled)))
    how = data.draw(st.sampled_from(["drop", "change", "add"]))
    if how == "drop":
        del spoiled[field]
    elif how == "change":
        spoiled[field] = data.draw(nested)
    else:
        spoiled[data.draw(st.text(max_size=8))] = data.draw(nested)
    found = survives(lambda: records.validate(spoiled, "a record"))
    if found is not None:
        survives(lambda: found.metric("auc"))


@tries(60)
@given(content=st.binary(max_size=80) | nested.map(lambda x: json.dumps(x).encode()))
def test_files_with_any_bytes(book, content):
    path = book / "any"
    path.write_bytes(content)
    survives(lambda: records.read(path))
    survives(lambda: io.read_json(path))
    survives(lambda: io.load_tensors(path))


# --- loaders -----------------------------------------------------------------------------------------------

numbers = st.floats(width=32) | st.sampled_from([0.0, np.nan, np.inf, 1e38])


@st.composite
def series(draw):
    """One array: of two axes mostly, of some dtype, with some odd value somewhere."""
    shape = draw(st.lists(st.integers(0, 25), min_size=1, max_size=3) | st.just([3, 24]) | st.just([3, 30]))
    x = np.random.default_rng(draw(st.integers(0, 9))).standard_normal(shape)
    if x.size and draw(st.booleans()):
        x.flat[draw(st.integers(0, x.size - 1))] = draw(numbers)
    return x.astype(draw(st.sampled_from(["f4", "f8", "i4", "U3", "c8", "?"])))


@st.composite
def people(draw):
    n = draw(st.integers(0, 3))
    columns = {
        "participant_id": st.sampled_from(["sub-1", "sub-2", "sub-3", "", None]),
        "age": st.sampled_from([20, 30.5, -1, None, "x", np.nan]),
        "sex": st.sampled_from(["F", "M", "x", None, 1]),
        "site": st.sampled_from(["A", "B", "", None, 7]),
        "group": st.sampled_from(["control", "patient", "ASD", None]),
    }
    kept = draw(st.sets(st.sampled_from(sorted(columns)), min_size=4))
    return pd.DataFrame({c: draw(st.lists(columns[c], min_size=n, max_size=n)) for c in sorted(kept)})


@tries(90)
@given(arrays=st.lists(series(), max_size=3), table=people(), tr=scalars | st.just(2.0), zero=st.booleans())
def test_cohorts_of_anything(arrays, table, tr, zero):
    how = "zero" if zero else "raise"
    with np.errstate(all="ignore"):
        made = survives(
            lambda: Cohort.validate(bold=arrays, participants=table, tr=tr, provenance=ABOUT, on_constant=how)
        )
    if made is not None:
        assert len(made) == len(arrays) and all(np.isfinite(made.series(s)).all() for s in range(len(made)))


@tries(60)
@given(content=texts, rows=st.lists(st.lists(st.text(max_size=5), min_size=1, max_size=5), max_size=4))
def test_participants_tables_of_anything(book, content, rows):
    path = book / "participants.tsv"
    head = "participant_id\tage\tsex\tsite\tgroup\n"
    for text in (content, head + "\n".join("\t".join(row) for row in rows)):
        path.write_bytes(text.encode())
        table = survives(lambda: participants.read(path, values={"group": "patient:a,control:b"}))
        if table is not None:
            for name in table.index.unique():
                survives(lambda n=name, t=table: participants.trouble(t.loc[n]))


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[Path, Path]:
    """A cohort of two people as a folder and as a store."""
    cohort = bold.cohort(20, n_frames=24, n_sites=2, seed=0)
    few = Cohort.validate(
        bold=[cohort.series(s)[:4] for s in range(2)],
        participants=cohort.participants.iloc[:2],
        tr=2.0,
        provenance=ABOUT,
        atlas=Atlas.unnamed(4),
    )
    base = tmp_path_factory.mktemp("places")
    few.save(base / "plain")
    store.write(few, base / "mine.zarr")
    return base / "plain", base / "mine.zarr"


@tries(80)
@given(data=st.data())
def test_cohorts_on_disk_with_one_file_changed(places, data):
    place = data.draw(st.sampled_from(places))
    file = data.draw(st.sampled_from(sorted(p for p in place.rglob("*") if p.is_file())))
    good = file.read_bytes()
    how = data.draw(st.sampled_from(["cut", "flip", "insert", "any", "swap"]))
    at = data.draw(st.integers(0, len(good)))
    spoiled = {
        "cut": lambda: good[:at],
        "flip": lambda: good[:at] + bytes(b ^ 0xFF for b in good[at : at + 3]) + good[at + 3 :],
        "insert": lambda: good[:at] + data.draw(st.binary(min_size=1, max_size=6)) + good[at:],
        "any": lambda: data.draw(st.binary(max_size=60)),
        "swap": lambda: good.replace(b"2", b"3").replace(b"true", b"null"),
    }[how]()
    before = store.load(place).hash
    try:
        file.write_bytes(spoiled)
        found = survives(lambda: store.load(place))
        if found is not None:
            assert found.hash == before, f"{file.name} changed ({how}) and nobody noticed"
    finally:
        file.write_bytes(good)
