"""The quality report: one page, a table and a picture of every run. It needs no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import io
from helpers.ingest.work import Run

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse } tr.out td { color: #a33 }
td, th { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #ccc }
img { max-width: 100%; border: 1px solid #ccc }
"""


def table(runs: Sequence[Run], used: Sequence[str]) -> pd.DataFrame:
    """One row a run: subject, state, reason, and its numbers."""
    rows = []
    for run in runs:
        state = "used" if run.name in used else "left out" if run.reason else "another run is used"
        rows.append(
            {"run": run.name, "subject": run.subject, "state": state, "reason": run.reason} | run.quality
        )
    return pd.DataFrame(rows)


def write(
    folder: Path, title: str, runs: Sequence[Run], used: Sequence[str], about: dict[str, Any], pictures: Path
) -> Path:
    """``folder/index.html``, ``runs.tsv`` and ``pictures/``."""
    rows = table(runs, used)
    io.atomic_write(folder / "runs.tsv", rows.to_csv(sep="\t", index=False, na_rep="n/a"))
    shown = []
    for run in runs:
        source = pictures / f"{run.name}.png"
        if source.is_file():
            io.atomic_write(folder / "pictures" / source.name, source.read_bytes())
            alt = html.escape(f"Quality of {run.name}: {run.reason or 'taken'}")
            shown.append(
                f'<h3 id="{html.escape(run.name)}">{html.escape(run.name)}</h3>'
                f"<p>{html.escape(run.reason) or 'No objection.'}</p>"
                f'<img loading="lazy" src="pictures/{html.escape(source.name)}" alt="{alt}">'
            )
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in rows.columns)
    body = "".join(_row(row) for row in rows.to_dict("records"))
    settings = "".join(f"<li>{html.escape(k)}: {html.escape(str(v))}</li>" for k, v in about.items())
    n_out = sum(bool(run.reason) for run in runs)
    page = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{html.escape(title)}</h1><p>{len(runs)} runs, {len(used)} used, {n_out} left out.</p>"
        f'<ul>{settings}</ul><div class="wide"><table><tr>{head}</tr>{body}</table></div>'
        f"<h2>Pictures</h2>{''.join(shown)}</body></html>\n"
    )
    return io.atomic_write(folder / "index.html", page)


def _row(row: dict[str, Any]) -> str:
    cells = []
    for name, value in row.items():
        if name == "run":
            cells.append(f'<td><a href="#{html.escape(value)}">{html.escape(value)}</a></td>')
        elif isinstance(value, float):
            cells.append(f"<td>{'' if np.isnan(value) else f'{value:.3g}'}</td>")
        else:
            cells.append(f"<td>{html.escape(str(value))}</td>")
    return f"<tr{' class=out' if row['state'] == 'left out' else ''}>{''.join(cells)}</tr>"


def picture(
    path: Path, title: str, series: np.ndarray, tr: float, traces: dict[str, tuple[np.ndarray, float | None]]
) -> None:
    """A carpet of the series (R, T) in standard deviations, their correlation, and ``traces``.

    A trace is (values, limit or None); its name says what it is and, after a bar, along which axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6 + 1.1 * len(traces)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        1 + len(traces), 2, width_ratios=[2.4, 1], height_ratios=[2.6] + [1] * len(traces)
    )
    spread = series.std(axis=1, keepdims=True)
    z = (series - series.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    axis = figure.add_subplot(grid[0, 0])
    end = series.shape[1] * tr
    axis.imshow(
        z, aspect="auto", cmap="gray", vmin=-2, vmax=2, extent=(0, end, len(z), 0), interpolation="nearest"
    )
    axis.set(title=title, ylabel="region", xlabel="time (s)")
    axis = figure.add_subplot(grid[0, 1])
    fc = z @ z.T / z.shape[1]
    shown = axis.imshow(fc, cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set(title="correlation", xlabel="region")
    figure.colorbar(shown, ax=axis, shrink=0.8)
    for k, (name, (values, limit)) in enumerate(traces.items()):
        axis = figure.add_subplot(grid[1 + k, :])
        axis.plot(values, lw=0.9, color="#0072b2")
        if limit is not None:
            axis.axhline(limit, color="#d55e00", lw=0.9, ls="--")
        ylabel, _, xlabel = name.partition("|")
        axis.set(ylabel=ylabel, xlabel=xlabel, xlim=(0, max(len(values) - 1, 1)))
    with io.atomic(path) as temp, open(temp, "wb") as file:
        figure.savefig(file, format="png", dpi=70)
