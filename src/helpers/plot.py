"""The book's figures: one style, colours by role, matrices, brains, curves and interval plots.

Every function draws on the Axes it is given (or makes a figure 7 inches wide) and returns it. Colours are
those of Okabe & Ito, which readers with any common colour blindness can tell apart; roles also differ in
marker or line style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from helpers.data.cohort import Atlas
from helpers.errors import BookError

WIDTH = 7.0  # inches; the page shows it about 700 px wide

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#6E6E6E",
}

COLOURS = {
    "control": OKABE_ITO["blue"],
    "patient": OKABE_ITO["vermilion"],
    "train": OKABE_ITO["blue"],
    "validation": OKABE_ITO["green"],
    "test": OKABE_ITO["vermilion"],
    "baseline": OKABE_ITO["grey"],
    "method": OKABE_ITO["blue"],
    "other": OKABE_ITO["orange"],
    "chance": OKABE_ITO["black"],
    "F": OKABE_ITO["purple"],
    "M": OKABE_ITO["green"],
}

NETWORK_COLOURS = {
    "Vis": OKABE_ITO["purple"],
    "SomMot": OKABE_ITO["sky"],
    "DorsAttn": OKABE_ITO["green"],
    "SalVentAttn": OKABE_ITO["yellow"],
    "Limbic": "#999999",
    "Cont": OKABE_ITO["orange"],
    "Default": OKABE_ITO["vermilion"],
}

CYCLE = [OKABE_ITO[c] for c in ("blue", "vermilion", "green", "orange", "purple", "sky", "black")]


def style() -> None:
    """Set the house style for this session; call it once, after the imports."""
    sns.set_theme(style="ticks", palette=CYCLE)
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.4),
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
            "legend.fontsize": 9.5,
            "legend.title_fontsize": 9.5,
            "legend.frameon": False,
            "figure.titlesize": 11.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.grid": False,
            "lines.linewidth": 1.8,
            "image.cmap": "RdBu_r",
            "image.interpolation": "nearest",
        }
    )


def panel(n: int, *, columns: int | None = None, height: float = 2.8, **kw: Any) -> tuple[Figure, np.ndarray]:
    """(figure, flat array of ``n`` axes), in rows of ``columns`` (up to three in one row by default)."""
    if n < 1:
        raise BookError(f"panel: {n} axes asked; give 1 or more")
    columns = columns or (n if n <= 3 else 3)
    rows = -(-n // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, height * rows), squeeze=False, layout="constrained", **kw
    )
    flat = axes.ravel()
    for ax in flat[n:]:
        ax.set_axis_off()
    return figure, flat[:n]


def _axes(ax: Axes | None, height: float) -> Axes:
    return ax if ax is not None else panel(1, height=height)[1][0]


def network_order(atlas: Atlas) -> np.ndarray:
    """(R,) region numbers sorted by network, as in ``atlas.network_names``; as they come if unknown."""
    if not atlas.has_networks:
        return np.arange(atlas.n_regions)
    rank = {name: i for i, name in enumerate(atlas.network_names)}
    return np.argsort([rank[n] for n in atlas.networks], kind="stable")


_SHORT = {"SalVentAttn": "SalVent", "DorsAttn": "DorsAtt", "SomMot": "SomMot"}


def matrix(
    ax: Axes | None,
    fc: np.ndarray,
    atlas: Atlas | None = None,
    *,
    title: str = "",
    vmax: float | None = None,
    colorbar: bool = True,
    label: str = "correlation",
    names: bool = True,
) -> Axes:
    """A connectivity matrix (R, R), regions ordered by network, with block lines and network names.

    ``vmax`` is the end of the symmetric colour scale (default: 98th percentile of the off-diagonal). The
    diagonal is left blank. ``names=False`` leaves the network names out (small panels).
    """
    fc = np.asarray(fc, dtype=float)
    if fc.ndim != 2 or fc.shape[0] != fc.shape[1]:
        raise BookError(f"plot.matrix: expected a square matrix (R, R), got {fc.shape}")
    if atlas is not None and atlas.n_regions != len(fc):
        raise BookError(f"plot.matrix: matrix of {len(fc)} regions, atlas {atlas.name} of {atlas.n_regions}")
    ax = _axes(ax, 4.6)
    networks = atlas is not None and atlas.has_networks
    order = network_order(atlas) if networks else np.arange(len(fc))
    shown = fc[np.ix_(order, order)]
    np.fill_diagonal(shown, np.nan)
    if vmax is None:
        vmax = float(np.nanquantile(np.abs(shown), 0.98)) or 1.0
    image = ax.imshow(shown, vmin=-vmax, vmax=vmax, cmap="RdBu_r")
    ax.set_title(title)
    if networks:
        counts = [int((atlas.networks == n).sum()) for n in atlas.network_names]
        edges = np.r_[0, np.cumsum(counts)] - 0.5
        for e in edges[1:-1]:
            ax.axhline(e, color="black", lw=0.5)
            ax.axvline(e, color="black", lw=0.5)
        middle = (edges[1:] + edges[:-1]) / 2
        text = [_SHORT.get(n, n) for n in atlas.network_names] if names else []
        ax.set_yticks(middle if names else [], text)
        ax.set_xticks(middle if names else [], text, rotation=60, ha="right", rotation_mode="anchor")
        ax.tick_params(length=0)
    else:
        ax.set_xlabel("region")
        ax.set_ylabel("region")
    for side in ax.spines.values():
        side.set_visible(True)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label=label, shrink=0.8, pad=0.02)
    return ax


def glass(
    values: np.ndarray,
    atlas: Atlas,
    *,
    title: str = "",
    vmax: float | None = None,
    label: str = "",
    top: int | None = None,
    diverging: bool | None = None,
) -> Figure:
    """Values of regions (R,) as dots on a glass brain: left side, from behind, right side, from above
    (nilearn).

    ``top`` shows only the regions with the largest absolute values. Signed values get a diverging scale
    around 0.
    """
    from nilearn import plotting

    values = np.asarray(values, dtype=float)
    _check_brain(values.shape, (atlas.n_regions,), atlas, "glass")
    signed = bool((values < 0).any()) if diverging is None else diverging
    vmax = float(np.nanmax(np.abs(values))) if vmax is None else vmax
    shown = np.argsort(-np.abs(values))[: top or len(values)]
    shown = shown[np.argsort(np.abs(values[shown]), kind="stable")]  # the largest are drawn last, on top
    size = 25 + 90 * np.clip(np.abs(values[shown]) / vmax, 0, 1) if vmax > 0 else np.full(len(shown), 25.0)
    figure = plt.figure(figsize=(WIDTH, 2.6), layout="none")
    display = plotting.plot_markers(
        values[shown],
        atlas.coords[shown],
        node_size=size,
        node_cmap="RdBu_r" if signed else "viridis_r",
        node_vmin=-vmax if signed else min(0.0, float(np.nanmin(values))),
        node_vmax=vmax,
        node_kwargs={"edgecolors": "black", "linewidths": 0.4},
        display_mode="lyrz",
        figure=figure,
        axes=(0.0, 0.0, 0.9, 0.88 if title else 1.0),
        annotate=False,
        colorbar=True,
    )
    return _finish_brain(figure, display, title, label)


def connectome(
    fc: np.ndarray,
    atlas: Atlas,
    *,
    title: str = "",
    top: int = 50,
    vmax: float | None = None,
    label: str = "",
) -> Figure:
    """The ``top`` strongest edges (by absolute value) of a matrix (R, R) on a glass brain (nilearn)."""
    from nilearn import plotting

    fc = np.array(fc, dtype=float)
    _check_brain(fc.shape, (atlas.n_regions, atlas.n_regions), atlas, "connectome")
    np.fill_diagonal(fc, 0)
    upper = np.abs(fc[np.triu_indices(len(fc), 1)])
    if not 1 <= top <= len(upper):
        raise BookError(f"plot.connectome: top={top}, the matrix has {len(upper)} edges")
    threshold = np.partition(upper, -top)[-top]
    kept = np.where(np.abs(fc) >= threshold, fc, 0)
    vmax = float(np.abs(kept).max()) or 1.0 if vmax is None else vmax
    degree = (kept != 0).sum(0)
    if atlas.has_networks:
        colour = [NETWORK_COLOURS.get(n, "#000000") for n in atlas.networks]
    else:
        colour = ["#000000"] * atlas.n_regions
    figure = plt.figure(figsize=(WIDTH, 2.6), layout="none")
    display = plotting.plot_connectome(
        kept,
        atlas.coords,
        node_color=colour,
        node_size=np.where(degree > 0, 12 + 5 * degree, 0),
        edge_cmap="RdBu_r",
        edge_vmin=-vmax,
        edge_vmax=vmax,
        edge_kwargs={"linewidth": 1.4},
        display_mode="lyrz",
        figure=figure,
        axes=(0.0, 0.0, 0.9, 0.88 if title else 1.0),
        annotate=False,
        colorbar=True,
    )
    return _finish_brain(figure, display, title, label)


def _check_brain(shape: tuple, wanted: tuple, atlas: Atlas, who: str) -> None:
    if shape != wanted:
        raise BookError(f"plot.{who}: values of shape {shape}, atlas {atlas.name} needs {wanted}")
    if not atlas.has_coords:
        raise BookError(f"plot.{who}: atlas {atlas.name} has no coordinates; use plot.matrix")


def _finish_brain(figure: Figure, display: Any, title: str, label: str) -> Figure:
    if title:
        figure.text(0.01, 0.985, title, ha="left", va="top", fontsize=plt.rcParams["axes.titlesize"])
    bar = getattr(display, "_cbar", None)
    if bar is not None:
        bar.ax.yaxis.set_ticks_position("right")
        bar.ax.tick_params(labelsize=plt.rcParams["ytick.labelsize"])
        if label:
            bar.set_label(label, fontsize=plt.rcParams["axes.labelsize"])
            bar.ax.yaxis.set_label_position("right")
    return figure


def curves(
    history: Any,
    columns: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    title: str = "",
    ylabel: str = "loss",
    best: bool = True,
) -> Axes:
    """Training curves of a ``train.History`` (or its frame): a line a column, the best epoch marked."""
    frame = getattr(history, "frame", history)
    if not isinstance(frame, pd.DataFrame) or "epoch" not in frame:
        raise BookError("plot.curves: give a train.History, or a DataFrame with a column 'epoch'")
    skip = {"epoch", "lr", "seconds"}
    columns = list(columns) if columns else [c for c in frame.select_dtypes("number") if c not in skip]
    missing = [c for c in columns if c not in frame]
    if missing:
        raise BookError(f"plot.curves: no column {missing[0]!r} in the history; it has {list(frame)}")
    ax = _axes(ax, 3.0)
    dashes = ["-", "--", "-.", ":"]
    for i, c in enumerate(columns):
        ax.plot(frame["epoch"], frame[c], label=c, color=CYCLE[i % len(CYCLE)], ls=dashes[i % len(dashes)])
    epoch = getattr(history, "best_epoch", None) if best else None
    if epoch is not None:
        ax.axvline(epoch, color=OKABE_ITO["grey"], lw=1, ls=":")
        ax.text(epoch, 0.98, " best", transform=ax.get_xaxis_transform(), va="top", fontsize=9)
    ax.set(xlabel="epoch", ylabel=ylabel if len(columns) > 1 else columns[0], title=title)
    ax.xaxis.get_major_locator().set_params(integer=True)
    if len(columns) > 1:
        ax.legend()
    return ax


def intervals(
    table: pd.DataFrame | Mapping[str, Any],
    *,
    chance: float | None = None,
    chance_p95: float | None = None,
    baseline: str | Sequence[str] = (),
    column: str | None = None,
    ax: Axes | None = None,
    title: str = "",
    xlabel: str = "",
    spec: str = ".2f",
) -> Axes:
    """Dot and 95 % interval for each method, top to bottom, the numbers written at the right.

    table      : ``evaluate.table`` (its column ``column``, default the first) or a dict name -> Estimate
    chance     : dashed line; ``chance_p95`` shades what shuffled labels reach up to (their 95th percentile)
    baseline   : row names drawn as grey squares; the best of them gets a thin vertical line
    """
    if isinstance(table, pd.DataFrame):
        column = column or table.columns[0]
        if column not in table:
            raise BookError(f"plot.intervals: no column {column!r}; the table has {list(table.columns)}")
        rows = dict(zip(table.index, table[column], strict=True))
    else:
        rows = dict(table)
    rows = {name: v for name, v in rows.items() if hasattr(v, "lo") or isinstance(v, (int, float))}
    if not rows:
        raise BookError("plot.intervals: no row holds an Estimate or a number")
    grey = {baseline} if isinstance(baseline, str) else set(baseline)
    unknown = grey - set(rows)
    if unknown:
        raise BookError(f"plot.intervals: baseline {sorted(unknown)[0]!r} is not a row of the table")
    ax = _axes(ax, 0.75 + 0.36 * len(rows))
    if chance is not None:
        if chance_p95 is not None:
            ax.axvspan(chance, chance_p95, color=COLOURS["chance"], alpha=0.10, lw=0)
        ax.axvline(chance, color=COLOURS["chance"], ls="--", lw=1.2)
    if grey:
        best = max(float(getattr(rows[g], "value", rows[g])) for g in grey)
        ax.axvline(best, color=COLOURS["baseline"], lw=1)
    right = blended_transform_factory(ax.transAxes, ax.transData)
    for i, (name, e) in enumerate(rows.items()):
        value, lo, hi = (getattr(e, "value", e), getattr(e, "lo", e), getattr(e, "hi", e))
        role = "baseline" if name in grey else "method"
        ax.plot([lo, hi], [i, i], color=COLOURS[role], lw=2.2, solid_capstyle="butt")
        ax.plot(
            value, i, marker="s" if name in grey else "o", ms=7, color=COLOURS[role], mec="white", mew=0.8
        )
        ax.text(1.02, i, format(e, spec), transform=right, va="center", ha="left", fontsize=9.5)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set(xlabel=xlabel or (column or ""), title=title)
    if chance is not None:
        text = "chance" if chance_p95 is None else "chance, shaded up to its 95th percentile"
        ax.plot([], [], color=COLOURS["chance"], ls="--", lw=1.2, label=text)
    if grey:
        text = next(iter(grey)) if len(grey) == 1 else "baseline (line: the best one)"
        ax.plot([], [], color=COLOURS["baseline"], marker="s", ms=7, label=text)
    if chance is not None or grey:
        ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#dddddd", lw=0.6)
    ax.set_axisbelow(True)
    return ax
