"""CPU time of one M2DN training step, and of sampling with and without kept features.

    OMP_NUM_THREADS=1 python benchmarks/m2dn_step.py [--repeats 5]

Embedded size (48 x 48, C = 8) and twice the sides and the width, fp32, one thread. The floor of a sample is
one call of the network, which is what the regression twin costs. With three of four contrasts available only
one encoder and one decoder run at full size in each step: the rest of a call is the shared U-Net.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from machine import cpu_seconds

from helpers import chapters, train

SIZES = {"embedded": dict(size=48, width=8, batch=4), "larger": dict(size=96, width=16, batch=4)}
N = 12  # slices that are sampled together


def cpu_ms(work, repeats: int) -> float:
    """Median CPU time of ``work()`` in milliseconds, after one warm-up."""
    return 1e3 * cpu_seconds(work, repeats)


def training(chapter, schedule, *, size: int, width: int, batch: int, skips: str = "full"):
    """A function that takes one optimiser step."""
    torch.manual_seed(0)
    network = dict(M=4, width=width, skips=skips)
    model = chapter.M2DN(schedule=schedule, masks=chapter.all_masks(4), ema=0.99, **network)
    optimiser = torch.optim.AdamW(model.net.parameters(), lr=1e-3, fused=True)
    x = torch.rand(batch, 4, size, size) * 2 - 1

    def work():
        optimiser.zero_grad()
        model(x)["loss"].backward()
        optimiser.step()
        model.follow(10)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    train.set_threads(1)
    chapter = chapters.load("08_m2dn")
    schedule = chapter.Schedule(T=1000)
    for name, sizes in SIZES.items():
        print(f"{name}: {sizes}")
        for skips in ("none", "half", "full"):
            ms = cpu_ms(training(chapter, schedule, skips=skips, **sizes), repeats)
            print(f"  training step, skips {skips}: {ms:.0f} CPU-ms, {ms / sizes['batch']:.1f} a slice")
        net = chapter.Denoiser(M=4, width=sizes["width"]).eval()
        x, t = torch.rand(N, 4, sizes["size"], sizes["size"]) * 2 - 1, torch.full((N,), 1000)
        for k in (1, 2, 3):
            missing = (torch.arange(4) < k).expand(N, 4)
            with torch.no_grad():
                floor = cpu_ms(partial(net, x, t, missing), repeats) / N
            line = f"  {k} missing, ms a slice: one call {floor:.2f}"
            for sampler in (chapter.sample_naive, chapter.sample):
                work = partial(sampler, net, schedule, x, missing, n=5, seeds=range(N))
                line += f", {sampler.__name__} with 5 steps {cpu_ms(work, repeats) / N:.2f}"
            print(line)


if __name__ == "__main__":
    main()
