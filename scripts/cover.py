"""Draw the book's mark and its cover, book/static/{mark,cover}.svg, from a seed: python scripts/cover.py

The mark is a matrix of connectivity with one row and column hidden, as a self-supervised chapter hides them.
The cover sets it beside a few time series and the network they give. Both are plain shapes, legible on light
and dark ground and without colour.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

STATIC = Path(__file__).resolve().parents[1] / "book" / "static"
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8a8f98"


def blocks(n: int, rng: np.random.Generator) -> np.ndarray:
    """A symmetric (n, n) matrix with blocks on its diagonal, values from 0.12 to 1."""
    place = np.arange(n) * 3 // n
    m = 0.25 + 0.5 * (place[:, None] == place[None]) + 0.25 * rng.random((n, n))
    return np.clip((m + m.T) / 2, 0.12, 1)


def matrix(
    n: int, side: float, hidden: int, rng: np.random.Generator, x: float = 0, y: float = 0
) -> list[str]:
    """Squares of a matrix; row and column ``hidden`` are outlined instead of filled."""
    step, gap, values, out = side / n, 0.14 * side / n, blocks(n, rng), []
    for i in range(n):
        for j in range(n):
            at = f'x="{x + j * step + gap / 2:.2f}" y="{y + i * step + gap / 2:.2f}"'
            size = f'width="{step - gap:.2f}" height="{step - gap:.2f}" rx="{step * 0.14:.2f}"'
            if hidden in (i, j):
                look = f'fill="none" stroke="{ORANGE}" stroke-width="{step * 0.09:.2f}"'
            else:
                look = f'fill="{BLUE}" fill-opacity="{values[i, j]:.2f}"'
            out.append(f"<rect {at} {size} {look}/>")
    return out


def series(n: int, width: float, height: float, rng: np.random.Generator, x: float, y: float) -> list[str]:
    """Smooth random lines, one below the other."""
    out, t = [], np.linspace(0, 1, 90)
    for k in range(n):
        wave = sum(rng.normal() / f * np.sin(2 * np.pi * (f * t + rng.random())) for f in range(2, 9))
        middle, scale = y + (k + 0.5) * height / n, 0.42 * height / n / np.abs(wave).max()
        path = " ".join(f"{x + a * width:.1f},{middle - scale * b:.1f}" for a, b in zip(t, wave, strict=True))
        colour = ORANGE if k == 2 else BLUE
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
    return out


def network(n: int, radius: float, rng: np.random.Generator, x: float, y: float) -> list[str]:
    """Regions on a ring, joined where the matrix is large."""
    angle, values, out = 2 * np.pi * np.arange(n) / n - np.pi / 2, blocks(n, rng), []
    px, py = x + radius * np.cos(angle), y + radius * np.sin(angle)
    for i in range(n):
        for j in range(i):
            if values[i, j] > 0.8:
                ends = f'x1="{px[i]:.1f}" y1="{py[i]:.1f}" x2="{px[j]:.1f}" y2="{py[j]:.1f}"'
                out.append(f'<line {ends} stroke="{GREY}" stroke-width="{2.4 * values[i, j]:.1f}"/>')
    for i in range(n):
        fill = ORANGE if i == 2 else BLUE
        out.append(f'<circle cx="{px[i]:.1f}" cy="{py[i]:.1f}" r="8" fill="{fill}"/>')
    return out


def svg(width: int, height: int, name: str, shapes: list[str]) -> str:
    about = f'viewBox="0 0 {width} {height}" role="img" aria-label="{name}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {about}>'
    return "\n".join([head, f"<title>{name}</title>", *shapes, "</svg>"]) + "\n"


def mark() -> str:
    return svg(96, 96, "Mark: a connectivity matrix with one region hidden",
               matrix(6, 96, 2, np.random.default_rng(4)))


def cover() -> str:
    rng = np.random.default_rng(7)
    arrow = f'fill="none" stroke="{GREY}" stroke-width="3" stroke-linecap="round"'
    shapes = [*series(6, 220, 200, rng, 10, 10), f'<path d="M250 110 h34 m-9 -8 l9 8 l-9 8" {arrow}/>',
              *matrix(9, 200, 2, rng, 310, 10), f'<path d="M530 110 h34 m-9 -8 l9 8 l-9 8" {arrow}/>',
              *network(9, 88, rng, 680, 110)]
    name = "Time series, the connectivity matrix they give with one region hidden, a network"
    return svg(780, 220, name, shapes)


def main() -> None:
    for name, text in (("mark", mark()), ("cover", cover())):
        (STATIC / f"{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
