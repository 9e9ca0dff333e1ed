"""Seconds of a training epoch of BrainEC-LLM: 5 regions, 50 people, 200 frames, batch 2, one thread.

    OMP_NUM_THREADS=1 python benchmarks/brainec_epoch.py

The public code takes 6.8 to 9 s for such an epoch with its smallest language model (64 wide, one layer), and
44 to 53 s with 256 wide, four layers (measured on another machine). The same sizes are timed here with
random weights, with the prompt shared and, for comparison, encoded once for every region and person; and
MiniLM with two and with six layers.
"""

from __future__ import annotations

import time

import torch
import transformers

from helpers import chapters, language
from helpers.simulate import networks

PUBLIC = {"64 wide, 1 layer": "6.8 to 9 s", "256 wide, 4 layers": "44 to 53 s"}


def bert(width: int, layers: int, words: language.Language) -> language.Language:
    """A random BERT of that size with the tokens of MiniLM."""
    config = transformers.BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 32,
        intermediate_size=4 * width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return language.wrap(transformers.BertModel(config, add_pooling_layer=False), words.tokenizer)


def epoch(chapter, lm: language.Language, bold, steps: int = 25) -> float:
    """Seconds of an epoch, from some of its 25 steps of two people."""
    text = chapter.write_prompt(bold, "full")
    model = chapter.BrainEC(R=5, T=200, lm=lm.add_lora(8), text=text)
    x = chapter.windows(bold, 200)
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    for k in range(steps + 1):
        if k == 1:
            start = time.perf_counter()
        adam.zero_grad()
        chapter.objective(model, x[2 * (k % 25) : 2 * (k % 25) + 2])["loss"].backward()
        adam.step()
    return (time.perf_counter() - start) * 25 / steps


def main() -> None:
    chapter = chapters.load("05_brainec_llm")
    bold, words = networks.network(5, 50).bold, language.load(mode="random", layers=1)
    for name, size in {"64 wide, 1 layer": (64, 1), "256 wide, 4 layers": (256, 4)}.items():
        shared = epoch(chapter, bert(*size, words), bold, steps=10)
        plain = bert(*size, words)
        plain.forward = plain.unshared
        print(
            f"{name}: {shared:.1f} s shared, {epoch(chapter, plain, bold, steps=4):.1f} s unshared, "
            f"public code {PUBLIC[name]}",
            flush=True,
        )
    for layers in (2, 6):
        print(
            f"MiniLM, {layers} layers: {epoch(chapter, language.load(layers=layers), bold, steps=5):.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
