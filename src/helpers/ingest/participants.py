"""participants.tsv as BIDS has it -> the columns of a cohort. What is not said is asked for, not guessed."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from helpers.data.cohort import CHOICES, COLUMNS
from helpers.errors import BookError

SEX = {"f": "F", "female": "F", "m": "M", "male": "M"}


def find(root: Path, given: str | None = None) -> Path:
    """participants.tsv: the one given, or beside the data, or up to two folders above."""
    if given:
        path = Path(given)
        if not path.is_file():
            raise BookError(f"--participants {given}: no such file")
        return path
    for folder in (root, *list(root.resolve().parents)[:2]):
        if (folder / "participants.tsv").is_file():
            return folder / "participants.tsv"
    raise BookError(f"no participants.tsv in {root} or above it: say --participants FILE")


def pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE words as a dict."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise BookError(f"{option} {word}: write {option} NAME=VALUE")
        if name in found:
            raise BookError(f"{option} {name} is given twice")
        found[name] = value
    return found


def read(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
    constants: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The table with participant_id (``sub-...``), age, sex, site, group, and its other columns as they are.

    ``columns`` says which column holds what (``group=diagnosis``), ``values`` how its values are to be read
    (``group=patient:ASD,control:TD``), ``constants`` what holds for everybody (``site=Leipzig``). A value
    that is missing or unknown costs that one subject its place, with its reason in the report.
    """
    columns, values, constants = columns or {}, values or {}, constants or {}
    try:
        table = pd.read_csv(
            path, sep="\t", dtype=str, keep_default_na=False, na_values=["n/a"], quoting=csv.QUOTE_MINIMAL
        )
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise BookError(f"{path} cannot be read as a table of tabs: {str(error)[:150]}") from error
    for name in (*columns, *values, *constants):
        if name not in COLUMNS:
            raise BookError(f"unknown column {name!r}: choose one of {', '.join(COLUMNS)}")
    for name, theirs in columns.items():
        if theirs not in table:
            raise BookError(f"--column {name}={theirs}: {path} has {', '.join(table.columns)}")
        table[name] = table[theirs]
    for name, value in constants.items():
        table[name] = value
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise BookError(
            f"{path} has no column {', '.join(missing)}: say --column {missing[0]}=ITS_NAME, or --set"
            f" {missing[0]}=VALUE where one value holds for everybody"
        )
    ids = table["participant_id"].fillna("").str.strip()
    table["participant_id"] = ["" if not k else k if k.startswith("sub-") else f"sub-{k}" for k in ids]
    twice = table["participant_id"][table["participant_id"].duplicated()]
    if len(twice):
        raise BookError(f"{path}: {twice.iloc[0]} appears twice: one row a subject")
    for name, rule in values.items():
        table[name] = table[name].map(_rule(name, rule)).fillna("")
    table["sex"] = [SEX.get(str(v).strip().lower(), "") for v in table["sex"]]
    table["age"] = pd.to_numeric(table["age"], errors="coerce")
    for name in ("site", "group"):
        table[name] = table[name].fillna("").astype(str).str.strip()
    return table.set_index("participant_id", drop=False)


def _rule(name: str, text: str) -> dict[str, str]:
    """``patient:ASD,control:TD`` as {"ASD": "patient", "TD": "control"}."""
    found = {}
    for part in text.split(","):
        ours, colon, theirs = part.partition(":")
        if not (ours and colon and theirs):
            raise BookError(f"--value {name}={text}: write --value {name}=OURS:THEIRS,OURS:THEIRS")
        if name in CHOICES and ours not in CHOICES[name]:
            raise BookError(f"--value {name}={text}: {name} is one of {', '.join(CHOICES[name])}")
        found[theirs] = ours
    return found


def trouble(row: pd.Series) -> str:
    """Why this subject cannot be in a cohort; empty if it can."""
    if not row["age"] > 0:
        return "participants.tsv: age is missing or not a number"
    for name, choices in CHOICES.items():
        if row[name] not in choices:
            return f"participants.tsv: {name} is {row[name]!r}, not one of {', '.join(choices)} (--value)"
    return "" if row["site"] else "participants.tsv: site is missing"
