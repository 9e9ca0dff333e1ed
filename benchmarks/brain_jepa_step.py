"""CPU-seconds of one Brain-JEPA training step at the paper's sizes, as ratios of the machine's matmul rate.

    OMP_NUM_THREADS=1 python benchmarks/brain_jepa_step.py [--steps 3] [--regions 100] [--ablate]

ViT-S (encoder 384/12/6, predictor 384/6), T = 160, fp32, one thread: R = 100 with a batch of 4, or
``--regions 450`` with a batch of 1. A step is the target pass over all tokens, context encoder and
predictor forward and backward, AdamW and EMA. The floor counts multiply-adds only, of the context and
target sizes that were drawn, over the rate of a 1024 x 1024 matrix product measured in the same run.
Reference figures from another machine, which multiplies at 100 GFLOP/s: public code 6.84 and 26.7 CPU-s,
floors 4.3 and 10.7.

The first row has the token counts of the public code (18.3 % context, 18.8 % targets, alike in all samples),
so that it compares with those figures; the second the masks of the chapter, which are larger and padded to
the longest sample. ``--ablate`` takes the steps back one by one, on the first row's masks: "explicit softmax"
is the arithmetic of the public code's attention, "all tokens" encodes the whole array for the context and
drops what is hidden afterwards.

Report, two busy cores of an AMD EPYC at 98 GFLOP/s, R = 100: row one 5.3 to 5.5 CPU-s, 80 to 83 % of the
matmul rate; masks of the chapter 8.9 CPU-s, 65 % (padding is the difference). Encoding only what is needed
buys a factor of 2.4, fused attention 1.2 (on padded masks); trimming the last blocks nothing above the noise.
R = 450 (106 GFLOP/s): row one 9.8 CPU-s, 81 %; masks of the chapter 14.1 CPU-s, 79 %.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from machine import cpu_seconds, matmul_rate

from helpers import chapters, train

D, DEPTH, HEADS, D_G, DEPTH_G, P, PATCH = 384, 12, 6, 384, 6, 10, 16


def block_gflop(n: int, d: int, queries: int | None = None) -> float:
    """Multiply-adds of a block's forward pass on n tokens, counted as two operations, in GFLOP."""
    q = n if queries is None else queries
    return 2 * (2 * n * d * d + 2 * q * d * d + 8 * q * d * d + 2 * q * n * d) / 1e9


def gflop(R: int, context: int, target: int, trimmed: bool) -> float:
    """Of one sample's step: target forward; context and predictor forward and backward (3 x forward)."""
    N, last = R * P, target if trimmed else None
    teacher = (DEPTH - 1) * block_gflop(N, D) + block_gflop(N, D, last)
    student = DEPTH * block_gflop(context, D)
    both = context + target
    predictor = (DEPTH_G - 1) * block_gflop(both, D_G) + block_gflop(both, D_G, last)
    return teacher + 3 * (student + predictor)


def step(chapter, R: int, B: int, masks, *, trim=True, explicit=False, gather=True):
    """A function that takes one optimiser step."""
    torch.manual_seed(0)
    features = np.random.default_rng(0).standard_normal((R, 30))
    predictor = dict(width=D_G, depth=DEPTH_G, n_heads=HEADS)
    model = chapter.BrainJEPA(
        features=features, p=PATCH, D=D, depth=DEPTH, n_heads=HEADS, predictor=predictor
    )
    if explicit:
        for block in (m for m in model.modules() if isinstance(m, chapter.Block)):
            block.attention = softmax_attention
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
    scans = torch.randn(B, R, P * PATCH)
    real = None if masks.seen.all() else masks.seen

    def loss():
        if trim and gather:
            return model(scans, masks)["loss"]
        patches = model.encoder.patches(scans)
        if gather:
            z = model.encoder(patches, masks.context, real)
        else:  # encode everything, drop what is hidden afterwards
            z = chapter.take(model.encoder(patches), masks.context)
        with torch.no_grad():
            s = chapter.take(model.target(patches), masks.target)
            s = torch.nn.functional.layer_norm(s, s.shape[-1:])
        pos = model.predictor.positions(R, P)
        net, n = model.predictor, z.shape[1]
        embed = torch.nn.functional.embedding
        hidden = net.mask_token + embed(masks.target, pos)
        x = torch.cat([net.enter(z) + embed(masks.context, pos), hidden], 1)
        x = chapter.through(net.blocks, x, torch.cat([masks.seen, masks.kind > 0], 1))
        return chapter.jepa_loss(net.leave(net.norm(x[:, n:])), s, masks.kind)[0]

    def work():
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        model.follow(0.996)

    return work


def softmax_attention(q, k, v, mask):
    """Attention with the matrix of all pairs written out."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), -1) @ v


def report(chapter, R: int, B: int, steps: int, rate: float, ablate: bool) -> None:
    rng = np.random.default_rng(0)
    n, k = round(0.183 * R * P), round(0.188 * R * P)
    order = np.stack([rng.permutation(R * P) for _ in range(B)])
    context, target = np.sort(order[:, :n]), np.sort(order[:, n : n + k])
    parts = context, np.ones((B, n), bool), target, 1 + np.arange(B * k).reshape(B, k) % 3
    even = chapter.Masks(*map(torch.from_numpy, parts))
    drawn = (chapter.three_kinds(R, P, rng) for _ in range(B))
    padded = chapter.pack(*map(np.stack, zip(*drawn, strict=True)))
    variants = {"public code's token counts": (even, {}), "masks of the chapter, padded": (padded, {})}
    if ablate:
        variants |= {
            "last blocks not trimmed": (even, dict(trim=False)),
            "and all tokens encoded": (even, dict(trim=False, gather=False)),
            "not trimmed, explicit softmax": (even, dict(trim=False, explicit=True)),
        }
    first = None
    for name, (masks, options) in variants.items():
        n, k = int(masks.seen.sum()) // B, int((masks.kind > 0).sum()) // B
        floor = gflop(R, n, k, True) * B / rate
        seconds = cpu_seconds(step(chapter, R, B, masks, **options), steps, np.min)
        first = first or seconds
        rates = f"{floor / seconds:.0%} of the matmul rate (floor {floor:.2f}), x {seconds / first:.2f}"
        print(f"R {R}, batch {B}: {seconds:6.2f} CPU-s a step, {rates}: {name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--regions", type=int, default=100)
    parser.add_argument("--ablate", action="store_true", help="take the steps back one by one")
    options = parser.parse_args()
    train.set_threads(1)
    chapter = chapters.load("04_brain_jepa")
    rate = matmul_rate(20, np.min)
    print(f"matmul {rate:.0f} GFLOP/s")
    batch = 4 if options.regions < 200 else 1
    report(chapter, options.regions, batch, options.steps, rate, options.ablate)


if __name__ == "__main__":
    main()
