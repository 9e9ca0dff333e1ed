"""The invariants of BrainEC-LLM and of its repair, on the classes of the notebook itself."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from helpers import chapters, effective, graphs, language
from helpers.errors import BookError
from helpers.simulate import networks as simulate


@pytest.fixture(scope="module")
def chapter():
    return chapters.load("05_brainec_llm")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def reader():
    return language.load(mode="none", width=32)


@pytest.fixture(scope="module")
def network():
    return simulate.network(5, 30, seed=3)


def off_diagonal(R):
    return ~np.eye(R, dtype=bool)


# --------------------- prompt and scales


def test_prompt_forms_hold_the_correlations(chapter, network):
    full, upper, top = (chapter.write_prompt(network.bold, form) for form in ("full", "upper", "top"))
    r = np.mean([np.corrcoef(x) for x in network.bold], 0)
    assert f"{r[0, 1]:.2f}" in full and f"1-2 {100 * r[0, 1]:.0f}" in upper
    assert full.count("region ") >= 5 and len(upper) < len(full) and len(top) <= len(upper)
    assert chapter.write_prompt(network.bold, "none") == ""


def test_the_prompt_is_symmetric_information_only(chapter, network):
    assert chapter.write_prompt(network.bold[:, :, ::-1], "full") == chapter.write_prompt(
        network.bold, "full"
    )


def test_auto_takes_a_form_that_fits(chapter):
    class Counter:
        max_tokens = 300

        def tokens(self, text):
            return text.split()

    small, large = (np.random.default_rng(0).standard_normal((2, R, 60)) for R in (5, 30))
    assert "region 1:" in chapter.fitting_prompt(small, Counter(), 20)
    text = chapter.fitting_prompt(large, Counter(), 20)
    assert text and len(text.split()) <= 150 and "region 1:" not in text


@pytest.mark.parametrize("T", [200, 96, 48])
def test_scales_halve_and_patches_count(chapter, T):
    xs = chapter.scales(torch.randn(2, 3, T))
    assert [x.shape[-1] for x in xs] == [T // 2**i for i in range(4)]
    for x in xs:
        assert chapter.patches(x, 8).shape == (2, 3, x.shape[-1] // 8 + 1, 8)
        torch.testing.assert_close((x - chapter.smooth(x)) + chapter.smooth(x), x, atol=1e-6, rtol=0)


def test_smoothing_is_a_moving_average_with_replicated_edges(chapter):
    x = torch.randn(1, 1, 60)
    padded = np.pad(x[0, 0].numpy(), 12, mode="edge")
    expected = np.convolve(padded, np.ones(25) / 25, "valid")
    np.testing.assert_allclose(chapter.smooth(x)[0, 0], expected, atol=1e-5)


def test_patches_reassemble(chapter):
    x = torch.randn(2, 3, 100)
    p = chapter.patches(x, 8).flatten(-2)
    torch.testing.assert_close(p[..., :100], x)
    assert (p[..., 100:] == x[..., -1:]).all()


def test_phi_equals_a_loop_over_regions_and_features(chapter):
    R, D, phi = 3, 32, chapter.Mix(R=3, T_in=40, T_out=20, P=8).eval()
    x = torch.randn(1, R, 40)
    e = phi.embed(chapter.patches(x, 8))[0]  # (R, L, D)
    L, y = e.shape[1], torch.zeros(R, D, e.shape[1])
    for r in range(R):  # time: every feature of every region by itself
        for d in range(D):
            c, padded = r * D + d, F.pad(e[r, :, d], (2, 2))
            y[r, d] = phi.time.bias[c] + sum(phi.time.weight[c, 0, k] * padded[k : k + L] for k in range(5))
        y[r] = phi.norm(y[r][None])[0]
    for part, n, regions_first in ((phi.within, R, True), (phi.across, D, False)):
        y = y if regions_first else y.transpose(0, 1)
        first, last = part[0], part[2]
        groups = []
        for g in range(n):  # one small network for every region, then for every feature
            rows = slice(g * y.shape[1], (g + 1) * y.shape[1])
            h = F.gelu(first.weight[rows, :, 0] @ y[g] + first.bias[rows, None])
            groups.append(last.weight[rows, :, 0] @ h + last.bias[rows, None])
        y = torch.stack(groups) if regions_first else torch.stack(groups).transpose(0, 1)
    expected = phi.out(phi.shrink(y.mT + e).flatten(1))
    torch.testing.assert_close(phi(x)[0], expected, atol=1e-5, rtol=1e-4)


def test_reprogramming_equals_a_loop_over_heads(chapter):
    layer, h = chapter.Reprogram(words=torch.randn(50, 16), n_prototypes=7).eval(), torch.randn(2, 3, 32)
    E = layer.prototypes.weight @ layer.words + layer.prototypes.bias[:, None]
    q, k, v, heads = layer.q(h), layer.k(E), layer.v(E), []
    for i in range(8):
        c = slice(32 * i, 32 * i + 32)
        heads.append(torch.softmax(q[..., c] @ k[:, c].T / 32**0.5, -1) @ v[:, c])
    torch.testing.assert_close(layer(h), layer.out(torch.cat(heads, -1)), atol=1e-5, rtol=1e-4)


def test_mixing_keeps_shapes_and_reaches_every_scale(chapter):
    lengths = [96, 48, 24, 12]
    mix = chapter.MixScales(R=4, lengths=lengths, P=8).eval()
    xs = [torch.randn(2, 4, T, requires_grad=True) for T in lengths]
    out = mix(xs)
    assert [y.shape for y in out] == [x.shape for x in xs]
    for y in (out[0], out[-1]):  # fine hears coarse, and coarse hears fine
        grads = torch.autograd.grad(y.square().sum(), xs, retain_graph=True)
        assert all(g.abs().sum() > 0 for g in grads)


def test_reprogrammed_patches_are_mixtures_of_prototypes(chapter):
    layer = chapter.Reprogram(words=torch.randn(50, 16), n_prototypes=7).eval()
    h = torch.randn(3, 5, 32)
    one = layer(h)
    assert one.shape == (3, 5, 16)
    torch.testing.assert_close(layer(h[:, [2, 0]]), one[:, [2, 0]])  # each patch by itself


# --------------------- read-out


@pytest.mark.parametrize("R", [2, 5, 100])
def test_columns_of_the_map_sum_to_one_and_sparsity_has_no_gradient(chapter, R):
    model = chapter.ReadOut(R=R, T=64).eval()
    _, A = model(torch.randn(2, R, 64))
    torch.testing.assert_close(A.sum(1), torch.ones(2, R), atol=1e-5, rtol=0)
    assert (A.diagonal(dim1=1, dim2=2) == 0).all() and A.sum().item() / R == pytest.approx(2, abs=1e-5)
    grads = torch.autograd.grad(A.mean(0).sum() / R, [model.qkv.weight])
    assert grads[0].abs().max() < 1e-7


def test_gates_have_the_sparsity_gradient_the_softmax_lacks(chapter):
    softmax, gates = chapter.gradients()
    assert softmax < 1e-6 < 0.1 < gates


def test_the_read_out_equals_a_loop(chapter):
    model, x = chapter.ReadOut(R=4, T=32).eval(), torch.randn(1, 4, 32)
    u = model.norms[0](x + model.code)[0]
    q, k, _ = model.qkv(u).split(32, -1)
    A = torch.zeros(4, 4)
    for h in range(2):
        s = q[:, 16 * h : 16 * h + 16] @ k[:, 16 * h : 16 * h + 16].T / 4
        for i in range(4):
            weights = torch.softmax(s[i][torch.arange(4) != i], 0)
            A[torch.arange(4) != i, i] += weights / 2  # transposed: i receives
    torch.testing.assert_close(model(x)[1][0], A, atol=1e-5, rtol=1e-4)


def test_the_region_code_breaks_equivariance_and_nothing_else_does(chapter):
    x, order = torch.randn(2, 6, 64), torch.tensor([3, 0, 5, 1, 4, 2])
    for code, equivariant in ((True, False), (False, True)):
        model = chapter.ReadOut(R=6, T=64, code=code).eval()
        a, b = model(x)[1][:, order][:, :, order], model(x[:, order])[1]
        assert torch.allclose(a, b, atol=1e-5) is equivariant


def test_acyclicity(chapter):
    assert chapter.acyclicity(torch.tril(torch.rand(7, 7), -1)).item() == pytest.approx(0, abs=1e-5)
    uniform = {R: (torch.ones(R, R) - torch.eye(R)) / (R - 1) for R in (5, 10)}
    assert chapter.acyclicity(uniform[5]).item() == pytest.approx(0.0417, abs=1e-4)
    assert chapter.acyclicity(uniform[10]).item() == pytest.approx(0.0071, abs=1e-4)
    assert chapter.least_cycle(5)["smallest"] == pytest.approx(0.012, abs=0.001)


def test_the_read_out_makes_a_ring_from_anything(chapter):
    chapter.readout_epochs, chapter.device = 40, torch.device("cpu")
    bold = simulate.network(5, 50, seed=0).bold
    noise = np.random.default_rng(0).standard_normal(bold.shape)
    (signal, error), (null, _) = (chapter.readout_alone(x) for x in (bold, noise))
    maps = [signal, null]
    assert all(len({*A.argmax(0)}) == 5 and (A.max(0) > 0.5).all() for A in maps), "no ring"
    assert graphs.agreement(*maps) > 0.9, "the map should not depend on the data"
    assert all(chapter.is_ring(A) for A in maps) and not chapter.is_ring(np.full((5, 5), 0.25))
    assert error < 0.5, "the residual reconstructs without attention"


def test_the_residual_carries_each_region_past_the_masked_diagonal(chapter):
    model, x = chapter.ReadOut(R=4, T=64, code=False).eval(), torch.randn(1, 4, 64, requires_grad=True)
    torch.nn.init.zeros_(model.out.weight)  # attention says nothing
    y = model(x)[0]
    own = torch.autograd.grad(y[0, 2].square().sum(), x)[0][0]
    assert own[2].abs().sum() > 0 and own[[0, 1, 3]].abs().max() < 1e-6


# --------------------- losses


def test_contrast_equals_the_formula_and_is_finite_at_100_regions(chapter):
    z = [torch.randn(2, 3, 20) for _ in range(4)]
    torch.testing.assert_close(chapter.contrast_pair(z, 1, regions="sum"), chapter.contrast_naive(z, 1))
    many = [torch.ones(2, 100, 20)] * 4
    assert chapter.contrast_naive(many, 0).isnan()
    assert chapter.contrast_pair(many, 0).item() == pytest.approx(math.log(3), abs=1e-6)


def test_the_contrast_does_not_grow_with_the_number_of_regions(chapter):
    z = [torch.randn(2, 3, 20) for _ in range(4)]
    twice = [x.repeat(1, 2, 1) for x in z]
    torch.testing.assert_close(chapter.contrast_pair(z, 1), chapter.contrast_pair(twice, 1))
    assert not torch.allclose(chapter.contrast_naive(z, 1), chapter.contrast_naive(twice, 1))


def test_parts_can_be_left_out(chapter, reader):
    for change in (dict(reprogram=False), dict(mixing=False), dict(code=False)):
        model = chapter.BrainEC(R=4, T=64, lm=reader, **change)
        assert chapter.objective(model, torch.randn(2, 4, 64))["loss"].isfinite()
    assert isinstance(chapter.BrainEC(R=4, T=64, lm=reader, reprogram=False).reprogram, torch.nn.Linear)


@pytest.mark.parametrize("R, T", [(5, 96), (100, 48), (2, 32)])
def test_losses_are_finite_and_every_weight_but_the_queries_learns(chapter, reader, R, T):
    model = chapter.BrainEC(R=R, T=T, lm=reader)
    out = chapter.objective(model, torch.randn(2, R, T))
    assert all(torch.isfinite(v) for v in out.values())
    out["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_weighted_sum_is_the_loss(chapter, reader):
    model = chapter.BrainEC(R=5, T=64, lm=reader).eval()
    out = chapter.objective(model, torch.randn(2, 5, 64))
    expected = out["mse"] + 2 * out["sparsity"] + 100 * out["acyclicity"] + 10 * out["contrast"]
    torch.testing.assert_close(out["loss"], expected)
    assert out["sparsity"].item() == pytest.approx(5, abs=1e-4)


def test_fifty_frames_run_with_one_patch_at_the_coarsest_scale(chapter, reader):
    model = chapter.BrainEC(R=5, T=50, lm=reader).eval()
    assert model.lengths == [50, 25, 12, 6] and model.decode.n[-1] == 1
    assert model(torch.randn(1, 5, 50))["reconstruction"].shape == (1, 5, 50)


def test_a_causal_model_takes_the_same_place(chapter):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=40, max_position_embeddings=128,
    )  # fmt: skip
    tokenizer = lambda text, verbose: {"input_ids": list(range(len(text)))}  # noqa: E731
    lm = language.wrap(transformers.LlamaModel(config), tokenizer, layers=1).add_lora(2)
    model = chapter.BrainEC(R=3, T=64, lm=lm, text="a short prompt")
    out = chapter.objective(model, torch.randn(2, 3, 64))
    out["loss"].backward()
    assert model.prompt.shape == (14,) and out["loss"].isfinite()
    assert all(p.grad is not None for p in lm.parameters() if p.requires_grad)


def test_regions_never_meet_inside_the_language_model(chapter):
    class Spy(torch.nn.Module):
        width = 32

        def words(self, n):
            return torch.randn(n, 32)

        def tokens(self, text):
            return torch.zeros(0, dtype=torch.long)

        def forward(self, x, prompt):
            self.seen = x.shape
            return x

    spy = Spy()
    chapter.BrainEC(R=5, T=64, lm=spy).eval()(torch.randn(3, 5, 64))
    assert spy.seen == (15, 9 + 5 + 3 + 2, 32)


# --------------------- binarisation


def test_the_public_rule_caps_rows_and_columns_and_always_answers(chapter):
    rng = np.random.default_rng(0)
    graph = chapter.binarise(rng.random((10, 10)))
    assert graph.sum(0).max() <= 4 and not graph.diagonal().any()
    assert chapter.binarise(0.5 + 1e-6 * rng.random((5, 5))).sum() > 0


def test_best_of_many_random_matrices_looks_like_success(chapter):
    chapter.seed = 0
    truth = simulate.ring_graph(5)
    one, many = chapter.best_of(truth, [1, 255], n=600, repeats=10)
    assert one < 0.4 < 0.6 < many


# --------------------- repaired: group fit


def fitted(chapter, bold, steps=300, **options):
    chapter.repaired_steps = steps
    return chapter.fit_group(bold, **options)


def test_an_arrow_and_a_two_cycle_are_found(chapter):
    chapter.repaired_steps = 600
    arrow = chapter.fit_group(chapter.two_regions(np.array([[0, 0.5], [0, 0]]), "laplace"))
    assert arrow[0, 1] > 5 * arrow[1, 0]
    cycle = chapter.fit_group(chapter.two_regions(np.array([[0, 0.4], [0.3, 0]]), "laplace"))
    assert cycle[0, 1] == pytest.approx(0.4, abs=0.05) and cycle[1, 0] == pytest.approx(0.3, abs=0.05)


def test_group_fit_is_equivariant_and_ignores_scale(chapter, network):
    S, order = fitted(chapter, network.bold), np.array([3, 0, 4, 1, 2])
    moved = fitted(chapter, network.bold[:, order])
    assert np.abs(S[np.ix_(order, order)] - moved).max() < 1e-5
    scaled = fitted(chapter, network.bold * np.array([1, 10, 0.1, 3, 5])[:, None] + 7)
    assert np.abs(S - scaled).max() < 1e-4


def test_group_fit_beats_partial_correlation_in_direction(chapter, network):
    assert graphs.direction(fitted(chapter, network.bold), network.truth) >= 0.8


def test_residuals_know_the_shape_of_the_innovations(chapter):
    chapter.repaired_steps, arrow = 100, np.array([[0, 0.5], [0, 0]])
    kurtosis = lambda noise: stats.kurtosis(  # noqa: E731
        chapter.fit_structural(chapter.two_regions(arrow, noise))[1], axis=1
    ).mean()
    assert kurtosis("laplace") > 1 > 0.2 > abs(kurtosis("normal")) and kurtosis("uniform") < -0.3


def test_likelihood_starts_finite_and_the_determinant_is_that_of_the_model(chapter):
    model = chapter.Structural(R=4)
    x, past = torch.randn(4, 300), torch.randn(2, 4, 300)
    assert torch.isfinite(chapter.likelihood(model, x, past))
    torch.nn.init.normal_(model.weight, std=0.2)
    B = model.gate * model.weight
    assert torch.det(torch.eye(4) - B) != 0 and (B.diagonal() == 0).all()
    loop = torch.stack([x[j] - sum(B[i, j] * x[i] for i in range(4) if i != j) for j in range(4)])
    torch.testing.assert_close(model(x, past), loop, atol=1e-5, rtol=1e-4)


# --------------------- repaired: amortised


@pytest.fixture(scope="module")
def estimators(chapter):
    chapter.amortised_epochs, chapter.device = 4, torch.device("cpu")
    seen, held = chapter.Packets(384, seed=1), chapter.Packets(64, seed=2)
    return [chapter.learn(seen, held, seed) for seed in (0, 1)]


def test_features_are_pair_relations_that_permute_with_the_regions(chapter, network):
    order = [3, 0, 4, 1, 2]
    f, g = chapter.pair_features(network.bold[:3]), chapter.pair_features(network.bold[:3, order])
    torch.testing.assert_close(f[:, order][:, :, order], g, atol=1e-3, rtol=1e-3)
    assert f.shape == (3, 5, 5, 10) and f.isfinite().all()


def test_dependence_follows_its_formula(chapter):
    x = chapter.unit(torch.randn(1, 3, 400).exp())
    c = (x[0, 0] * x[0, 1]).mean()
    left = x[0, 1] - c * x[0, 0]
    g = torch.tanh(x[0, 0])
    expected = 20 * ((g - g.mean()) * left).mean()
    torch.testing.assert_close(chapter.dependence(x)[0][0, 0, 1], expected, atol=1e-3, rtol=1e-3)


def test_amortised_is_equivariant_ignores_scale_and_finds_direction(chapter, estimators):
    s, order = simulate.network(10, 20, seed=11), np.random.default_rng(0).permutation(10)
    S = chapter.probabilities(estimators[0], s.bold)
    moved = chapter.probabilities(estimators[0], s.bold[:, order])
    assert np.abs(S[:, order][:, :, order] - moved).max() < 1e-4
    scaled = chapter.probabilities(estimators[0], s.bold * 30 + 5)
    assert np.abs(S - scaled).max() < 1e-2
    m = graphs.metrics(S.mean(0), s.truth)
    assert m["auroc"] > 0.9 and m["direction"] > 0.8


def test_people_do_not_influence_each_other(chapter, estimators, network):
    S = chapter.probabilities(estimators[0], network.bold, cells=1)
    torch.testing.assert_close(
        torch.from_numpy(S),
        torch.from_numpy(chapter.probabilities(estimators[0], network.bold)),
        atol=1e-4,
        rtol=1e-4,
    )


def test_seeds_agree_and_shifted_data_say_nothing(chapter, estimators):
    between, null, chance, fit = [], [], [], []
    for seed in range(6):
        s = simulate.network(6, 20, seed=20 + seed)
        S, T = (chapter.probabilities(model, s.bold) for model in estimators)
        N = chapter.probabilities(estimators[0], graphs.shifted(s.bold))
        between.append(graphs.agreement(S.mean(0), T.mean(0)))
        null.append(np.mean([graphs.agreement(a, b) for a, b in zip(S, N, strict=True)]))
        chance.append([graphs.per_person(N, s.truth)[0].mean(), graphs.metrics(N.mean(0), s.truth)["auroc"]])
        both = [fitted(chapter, x, steps=60) for x in (s.bold, graphs.shifted(s.bold))]
        fit.append(graphs.agreement(*both))
    assert np.mean(between) > 0.9
    assert abs(np.mean(null)) < 0.3 and abs(np.mean(fit)) < 0.3
    person, group = np.mean(chance, 0)
    assert 0.4 < person < 0.6 and 0.3 < group < 0.7


def test_phase_randomising_takes_the_direction_and_leaves_the_skeleton(chapter, estimators):
    found = []
    for seed in range(4):
        s = simulate.network(6, 30, seed=40 + seed)
        S = chapter.probabilities(estimators[0], graphs.phase_randomised(s.bold)).mean(0)
        link = s.truth | s.truth.T
        found.append([graphs.metrics(S + S.T, link)["auroc"], graphs.direction(S, s.truth)])
    skeleton, direction = np.mean(found, 0)
    assert skeleton > 0.8 and 0.2 < direction < 0.8


# --------------------- windows and errors


def test_windows_cut_every_person_alike(chapter):
    bold = np.random.default_rng(0).standard_normal((3, 4, 200))
    x = chapter.windows(bold, 96)
    z = effective.standardise(bold)
    assert x.shape == (6, 4, 96)
    np.testing.assert_allclose(x[3], z[1, :, 96:192], atol=1e-5)
    assert chapter.windows(bold[..., :51], 96).shape == (3, 4, 50)


@pytest.mark.parametrize(
    "what, message", [("nan", "NaN"), ("flat", "constant"), ("one", "one region"), ("short", "frames")]
)
@pytest.mark.parametrize("entry", ["windows", "fit_group", "pair_features"])
def test_bad_series_are_one_clear_error(chapter, entry, what, message):
    x = np.random.default_rng(0).standard_normal((2, 4, 100))
    if what == "nan":
        x[1, 2, 3] = np.nan
    if what == "flat":
        x[0, 1] = 2.0
    x = x[:, :1] if what == "one" else x[..., :20] if what == "short" else x
    with pytest.raises(BookError, match=message) as caught:
        getattr(chapter, entry)(*((x, 64) if entry == "windows" else (x,)))
    assert "\n" not in str(caught.value)


def test_people_of_unequal_length_are_refused(chapter):
    rng = np.random.default_rng(0)
    ragged = [rng.standard_normal((4, T)) for T in (100, 90)]
    with pytest.raises(BookError) as caught:
        chapter.windows(ragged, 64)
    assert "\n" not in str(caught.value)


def test_edge_layer_equals_its_loop(chapter):
    torch.manual_seed(0)
    layer, e = chapter.EdgeLayer(D=12), torch.randn(1, 4, 4, 12)
    h = layer.norm(e)[0]
    a, b = layer.path(h).chunk(2, -1)
    twin = torch.empty_like(h)
    for i in range(4):
        for j in range(4):
            path = sum(a[i, k] * b[k, j] for k in range(4)) / 2  # square root of four regions
            around = [torch.cat([h[:, r].mean(0), h[r].mean(0)]) for r in (i, j)]  # arriving, leaving
            y = layer.mix(torch.cat([h[i, j], h[j, i], path]))
            y = y + layer.from_i(around[0]) + layer.from_j(around[1])
            twin[i, j] = e[0, i, j] + layer.out(torch.nn.functional.gelu(y))
    torch.testing.assert_close(layer(e)[0], twin, atol=1e-5, rtol=1e-5)
