"""Language models as readers: sharing the prompt is exact, weights are checked, errors are one line."""

import pytest
import torch

from helpers import language
from helpers.errors import BookError

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")


def tiny(family):
    torch.manual_seed(0)
    if family == "bert":
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=40,
        )  # fmt: skip
        return transformers.BertModel(config, add_pooling_layer=False)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=40, max_position_embeddings=40,
    )  # fmt: skip
    return transformers.LlamaModel(config)


@pytest.mark.parametrize("family", ["bert", "causal"])
def test_a_shared_prompt_equals_the_plain_way(family):
    lm = language.wrap(tiny(family), layers=2).add_lora(4)
    weights = [p for p in lm.parameters() if p.requires_grad]
    for p in weights:
        torch.nn.init.normal_(p, std=0.2)  # LoRA starts at zero; make it matter
    x, prompt = torch.randn(6, 7, 24, requires_grad=True), torch.randint(0, 50, (11,))
    direction = torch.randn(6, 7, 24)
    a, b = lm(x, prompt), lm.unshared(x, prompt)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad((y * direction).sum(), [x, *weights]) for y in (a, b)]
    for u, v in zip(*grads, strict=True):
        assert (u - v).norm() <= 1e-4 * v.norm() + 1e-7


@pytest.mark.parametrize("family", ["bert", "causal"])
def test_the_prompt_matters_and_may_be_left_out(family):
    lm, x = language.wrap(tiny(family)), torch.randn(2, 5, 24)
    alone = lm(x)
    assert torch.equal(alone, lm(x, torch.zeros(0, dtype=torch.long)))
    assert not torch.allclose(alone, lm(x, torch.tensor([3, 4, 5])), atol=1e-3)


def test_only_lora_is_trained():
    lm = language.wrap(tiny("bert"), layers=2)
    assert not any(p.requires_grad for p in lm.parameters())
    lm.add_lora(4)
    n = sum(p.numel() for p in lm.parameters() if p.requires_grad)
    assert n == 2 * 2 * (24 * 4 + 4 * 24)  # layers x (query, key) x (A, B)


def test_layers_are_cut_and_checked():
    assert len(language.wrap(tiny("bert"), layers=1).net.encoder.layer) == 1
    with pytest.raises(BookError, match="the model has 3"):
        language.wrap(tiny("bert"), layers=9)
    with pytest.raises(BookError, match="neither BERT-like"):
        language.wrap(torch.nn.Linear(2, 2))


def test_too_many_tokens_are_refused():
    with pytest.raises(BookError, match="do not fit the 40 positions"):
        language.wrap(tiny("bert"))(torch.randn(1, 20, 24), torch.zeros(30, dtype=torch.long))


def test_none_is_the_identity_and_needs_nothing(monkeypatch):
    monkeypatch.setattr(language, "_transformers", lambda: pytest.fail("transformers was asked for"))
    lm, x = language.load(mode="none", width=16).add_lora(8), torch.randn(2, 3, 16)
    assert torch.equal(lm(x), x) and lm.width == 16 and lm.max_tokens is None
    assert len(lm.tokens("hello")) == 0 and lm.words(5).shape == (5, 16)


def test_words_are_drawn_with_a_seed():
    lm = language.wrap(tiny("bert"))
    assert torch.equal(lm.words(9), lm.words(9)) and not torch.equal(lm.words(9), lm.words(9, seed=1))


def test_unknown_modes_and_names_are_one_line():
    with pytest.raises(BookError, match="pretrained, random or none"):
        language.load(mode="big")
    with pytest.raises(BookError, match="cannot be loaded"):
        language.load("./no-such-folder-here")


def test_a_missing_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(language.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BookError, match=r"pip install -e \.\[llm\]"):
        language.folder()


def test_a_changed_file_is_refused(monkeypatch):
    pytest.importorskip("importlib.util").find_spec(language.WHEEL) or pytest.skip("no wheel")
    monkeypatch.setattr(language, "SHA256", "0" * 64)
    with pytest.raises(BookError, match="not the file we know"):
        language.folder()


def test_minilm_is_found_and_shares_its_prompt():
    if language.importlib.util.find_spec(language.WHEEL) is None:
        pytest.skip("the wheel is not installed")
    lm = language.load(layers=1).add_lora(8)
    assert lm.width == 384 and lm.max_tokens == 512 and lm.family == "bert"
    assert sum(p.numel() for p in lm.parameters() if p.requires_grad) == 12_288
    assert lm.sharing_factor(lm.tokens("which region drives which"), n=3, patches=5) > 0
    one, two = (language.load(mode="random", layers=1, seed=s) for s in (1, 2))
    assert not torch.equal(one.words(4), two.words(4))
