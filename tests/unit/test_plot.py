"""Figures are made without warnings, at the page's width, and refuse what they cannot draw."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers import evaluate as ev
from helpers import plot
from helpers.data import Atlas, group_fc, schaefer
from helpers.errors import BookError

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def house_style():
    with matplotlib.rc_context():
        plot.style()
        yield
        plt.close("all")


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return schaefer(100)


def small_text(figure) -> list[str]:
    """Texts below 9 pt; nothing on a page should be smaller."""
    figure.canvas.draw()
    return [
        t.get_text()
        for t in figure.findobj(matplotlib.text.Text)
        if t.get_text().strip() and t.get_fontsize() < 9
    ]


def test_style_is_seven_inches_wide_and_readable():
    assert plt.rcParams["figure.figsize"][0] == plot.WIDTH
    sizes = ("font.size", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    assert min(plt.rcParams[s] for s in sizes) >= 9


def test_panel():
    figure, axes = plot.panel(5)
    assert len(axes) == 5 and figure.get_size_inches()[0] == plot.WIDTH
    assert not figure.axes[5].axison
    with pytest.raises(BookError):
        plot.panel(0)


def test_matrix_orders_by_network(atlas):
    order = plot.network_order(atlas)
    assert list(dict.fromkeys(atlas.networks[order])) == list(atlas.network_names)
    ax = plot.matrix(None, group_fc(100), atlas, title="t")
    shown = ax.images[0].get_array()
    assert shown[0, 5] == pytest.approx(group_fc(100)[order[0], order[5]])
    assert np.ma.getmaskarray(shown).diagonal().all() or np.isnan(np.diag(shown)).all()
    assert len(ax.get_yticklabels()) == 7 and not small_text(ax.figure)
    plain = plot.matrix(None, np.eye(4), Atlas.unnamed(4))
    assert plain.get_xlabel() == "region"


def test_brains(atlas):
    values = np.random.default_rng(0).standard_normal(100)
    for figure in (
        plot.glass(values, atlas, title="t", label="w", top=10),
        plot.connectome(group_fc(100), atlas, top=20),
    ):
        assert figure.get_size_inches()[0] == plot.WIDTH and not small_text(figure)


def test_intervals(atlas):
    e = ev.Estimate(0.7, 0.6, 0.8)
    t = ev.table({"a": e, "b": e, "text": "none"})
    ax = plot.intervals(t, chance=0.5, chance_p95=0.58, baseline="a", title="t")
    assert [x.get_text() for x in ax.get_yticklabels()] == ["a", "b"]
    assert any("0.70 [0.60, 0.80]" in x.get_text() for x in ax.texts) and not small_text(ax.figure)
    with pytest.raises(BookError, match="baseline 'z'"):
        plot.intervals({"a": e}, baseline="z")
    with pytest.raises(BookError, match="no row"):
        plot.intervals({"a": "x"})


def test_curves():
    frame = pd.DataFrame({"epoch": range(5), "lr": 0.1, "loss": range(5), "nce": range(5), "seconds": 1.0})
    ax = plot.curves(frame)
    assert [line.get_label() for line in ax.lines] == ["loss", "nce"]
    with pytest.raises(BookError, match="no column 'x'"):
        plot.curves(frame, ["x"])


@pytest.mark.parametrize(
    "call",
    [
        lambda a: plot.matrix(None, np.zeros((3, 4))),
        lambda a: plot.matrix(None, np.eye(3), a),
        lambda a: plot.glass(np.zeros(3), a),
        lambda a: plot.glass(np.zeros(3), Atlas.unnamed(3)),
        lambda a: plot.connectome(np.eye(100), a, top=0),
        lambda a: plot.curves([1, 2]),
    ],
)
def test_refuses(atlas, call):
    with pytest.raises(BookError):
        call(atlas)


def test_colours_can_be_told_apart():
    roles = [matplotlib.colors.to_rgb(c) for c in plot.NETWORK_COLOURS.values()]
    distance = [np.abs(np.subtract(a, b)).max() for i, a in enumerate(roles) for b in roles[:i]]
    assert min(distance) > 0.2
