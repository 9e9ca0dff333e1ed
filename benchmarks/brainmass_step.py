"""CPU-seconds of one BrainMass training step at the public code's configuration, and of pseudo-FC.

    OMP_NUM_THREADS=1 python benchmarks/brainmass_step.py [--steps 3]

16 layers, 10 heads, width 2048, embedding 1024, R = 100, batch 16, fp32, one thread. The arithmetic
is 21.35 GFLOP a sample (14 forward-equivalents of the encoder, the rest is small), so the floor is that
over the machine's own rate for a 1024 x 1024 matrix product, measured in the same run. The public code was
measured on another machine that multiplies at 100 GFLOP/s: 9.8 CPU-seconds with its dropout of 0.1.
"""

from __future__ import annotations

import argparse

import torch
from machine import cpu_seconds, matmul_rate

from helpers import chapters, train

GFLOP_A_SAMPLE = 21.35
BATCH, R, T = 16, 100, 200


def step(chapter, dropout: float, target_dropout: bool = False, bits: bool = True):
    """A function that takes one optimiser step; ``target_dropout``: the target in training mode too."""
    torch.manual_seed(0)
    weights = dict(align=1.0, classify=0.1, reconstruct=2.0)
    model = chapter.BrainMass(
        D=R, d_ff=2048, d_embed=1024, depth=16, n_heads=10, dropout=dropout, weights=weights, mask="rows"
    )
    model.train()
    if target_dropout:
        for module in model.target.modules():
            module.training = True
    if not bits:
        for module in model.modules():
            if isinstance(module, chapter.Dropout):
                module.forward = torch.nn.Dropout.forward.__get__(module)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-4, fused=True)
    bold, n_frames = torch.randn(BATCH, R, T), torch.full((BATCH,), T)

    def work():
        optimiser.zero_grad()
        model(bold, n_frames)["loss"].backward()
        torch.nn.utils.clip_grad_value_(model.parameters(), 1.0)
        optimiser.step()
        model.target.follow(model.online, 0.996)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3)
    steps = parser.parse_args().steps
    train.set_threads(1)
    chapter = chapters.load("03_brainmass")
    rate = matmul_rate()
    floor = GFLOP_A_SAMPLE * BATCH / rate
    print(f"matmul {rate:.0f} GFLOP/s, floor of a step {floor:.2f} CPU-s (batch {BATCH})")
    variants = {
        "public mathematics, torch's dropout": dict(dropout=0.1, target_dropout=True, bits=False),
        "public mathematics (dropout 0.1, also in the target)": dict(dropout=0.1, target_dropout=True),
        "dropout 0.1, target without": dict(dropout=0.1),
        "dropout 0": dict(dropout=0.0),
    }  # fmt: skip
    for name, options in variants.items():
        seconds = cpu_seconds(step(chapter, **options), steps)
        rates = f"{BATCH / seconds:.2f} samples per CPU-s, {floor / seconds:.0%} of the matmul rate"
        print(f"{seconds:6.2f} CPU-s a step, {rates}: {name}")
    bold, n_frames = torch.randn(64, R, T), torch.full((64,), T)
    views = cpu_seconds(lambda: chapter.pseudo_fc(bold, chapter.keep_frames(n_frames, T, drop_rate=0.2)), 30)
    print(f"pseudo-FC {1e3 * views / 64:.3f} ms a view of {R} x {T}")


if __name__ == "__main__":
    main()
