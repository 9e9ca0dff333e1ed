"""Seconds of a ShaSpec training step: what skipping saves, what grouping saves, and what the rivals take.

    OMP_NUM_THREADS=1 python benchmarks/shaspec_step.py

Targets: with two of four modalities at most 60 % of the step with all four; grouped specific encoders at
least five times faster than four separate ones at the thin 3-D setting (16 channels, batch 1); the embedded
model at most 2 M parameters.

Measured in November 2026 on one thread of an AMD EPYC: two of four 59 to 62 % of the full step (0.072 s),
uniform masks 75 %, ModDrop U-Net 0.031 s; grouped 6.4 to 7.2 times faster (0.60 s and 0.08 s); SMIL 4.1 to
4.3 times a step of ShaSpec; 0.47 M parameters. A busy machine adds up to 20 points to the first number: run
it alone.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from helpers import chapters, shaspec, train


def seconds(work, repeats: int = 7) -> float:
    """Median wall time of ``work()``, after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def step(chapter, model, available, size=48, dims=2):
    """A function that takes one optimiser step on random images."""
    x = torch.randn(len(available), 4, *(size,) * dims)
    y = torch.rand(len(available), 3, *(size,) * dims) < 0.1
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def work():
        optimiser.zero_grad()
        chapter.objective(model, x, y, available, alpha=0.1, beta=0.02)["loss"].backward()
        optimiser.step()

    return work


def main() -> None:
    train.set_threads(1)
    torch.manual_seed(0)
    chapter = chapters.load("07_shaspec")
    masks = chapter.all_masks(4)
    uniform = chapter.draw_masks(8, masks, chapter.mask_law(masks, "uniform"))
    sets = {"all four": masks[14].expand(8, 4), "two of four": masks[5].expand(8, 4), "uniform": uniform}
    model = chapter.ShaSpec(widths=(8, 16, 32, 64))
    print(f"embedded model: {train.n_parameters(model):,} parameters, 48 x 48, batch 8")
    took = {name: seconds(step(chapter, model, a)) for name, a in sets.items()}
    for name, t in took.items():
        print(f"  {name}: {t:.3f} s a step, {t / took['all four']:.0%}")
    rival = chapter.EarlyFusion(widths=(12, 24, 48, 96))
    print(f"  ModDrop U-Net: {seconds(step(chapter, rival, uniform)):.3f} s a step")

    x, one = torch.randn(1, 4, 32, 32, 32), masks[14:]
    separate = chapter.SpecificEncoders(4, widths=(16, 16), dims=3)
    grouped = chapter.GroupedEncoders(4, widths=(16, 16), dims=3).copy_from(separate)
    a, b = (seconds(lambda m=m: m(x, one).sum().backward(), 3) for m in (separate, grouped))
    print(f"3-D, 16 channels, batch 1: separate {a:.3f} s, grouped {b:.3f} s, {a / b:.1f} times")

    batch = (
        torch.randn(64, 28, 28),
        torch.randn(64, 20, 20),
        torch.ones(64, 2).bool(),
        torch.arange(64) % 10,
    )
    batch[2][32:, 1] = False
    ours = shaspec.step_seconds(chapter.DigitShaSpec(), chapter.digits_step, batch)
    theirs = shaspec.step_seconds(shaspec.SMIL(torch.randn(10, 20, 20)), shaspec.smil_step, batch)
    print(f"digits, batch 64: ShaSpec {ours:.3f} s, SMIL {theirs:.3f} s, {theirs / ours:.1f} times")


if __name__ == "__main__":
    main()
