"""The invariants of M2DN, on the classes of the notebook itself."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from helpers import chapters, images, train
from helpers.errors import BookError
from helpers.simulate import tumours

M = 4


@pytest.fixture(scope="module")
def chapter():
    return chapters.load("08_m2dn")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def schedule(chapter):
    return chapter.Schedule(T=1000)


def slices(B=3, M=M, size=32):
    return torch.rand(B, M, size, size) * 2 - 1


def some_masks(chapter, B=3):
    masks = chapter.all_masks(M)
    return masks[torch.randperm(len(masks))[:B]]


def network(chapter, **changes):
    return chapter.Denoiser(**(dict(M=M, width=8) | changes)).eval()


# ------------------------------------------------------------------------------------- diffusion, no network


def test_schedule_is_double_and_starts_at_one(schedule):
    assert schedule.alpha_bar.dtype == torch.float64 and schedule.alpha_bar[0] == 1
    assert len(schedule.alpha_bar) == 1001 and (schedule.alpha_bar.diff() < 0).all()


def test_posterior_is_the_noise_form_for_every_step(chapter, schedule):
    x0, eps = slices().double(), torch.randn(3, M, 32, 32).double()
    worst = 0.0
    for t in range(1, 1001):
        x_t = chapter.diffuse(x0, torch.full((3,), t), eps, schedule)
        mu, _ = chapter.posterior(x0, x_t, t, schedule)
        noisy = x_t - schedule.beta[t] / (1 - schedule.alpha_bar[t]).sqrt() * eps
        worst = max(worst, (mu - noisy / schedule.alpha[t].sqrt()).abs().max().item())
    assert worst < 1e-10


def test_the_misprinted_coefficient_shows_on_the_path_only(chapter, schedule):
    right = chapter.amplitude_path(schedule, schedule.alpha_bar)
    wrong = chapter.amplitude_path(schedule, schedule.alpha)
    assert (right - schedule.alpha_bar.sqrt()).abs().max() < 0.01
    assert right[500].item() == pytest.approx(0.280, abs=0.01)
    assert wrong[500].item() == pytest.approx(1.887, abs=0.01) and wrong[300] - right[300] > 1e-2
    assert right[0].item() == pytest.approx(1) and wrong[0].item() == pytest.approx(1)


def test_a_schedule_that_does_not_end_in_noise_is_refused(chapter):
    with pytest.raises(BookError, match="too few"):
        chapter.Schedule(T=100)


def test_single_precision_is_enough_from_step_100_on(chapter, schedule):
    x0, eps = slices(), torch.randn(3, M, 32, 32)
    gaps = {}
    for t in (1, *range(100, 1001, 50)):
        x_t = chapter.diffuse(x0, torch.full((3,), t), eps, schedule)
        mu, _ = chapter.posterior(x0, x_t, t, schedule)
        beta, bar, alpha = (a[t].float() for a in (schedule.beta, schedule.alpha_bar, schedule.alpha))
        noisy = (x_t - beta / (1 - bar).sqrt() * eps) / alpha.sqrt()
        gaps[t] = (mu - noisy).abs().max().item()
    assert max(gap for t, gap in gaps.items() if t >= 100) < 3e-6
    assert 1e-6 < gaps[1] < 1e-3, "this is why the schedule is kept in double precision"


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 3, 20, 1000])
def test_an_oracle_returns_the_truth(chapter, schedule, n, eta):
    x0 = slices(B=1, size=8).double()
    x_t, times = torch.randn_like(x0), chapter.timetable(1000, n)
    for t, s in pairwise(times):
        x_t = chapter.step_back(x_t, x0, t, s, schedule, eta=eta, z=torch.randn_like(x0) if eta else None)
    assert (x_t - x0).abs().max() < 1e-10


def test_signal_of_the_oracle_chain_is_that_of_the_forward_process(chapter, schedule):
    x, times = torch.zeros(1).double(), chapter.timetable(1000, 1000)
    for t, s in pairwise(times):
        x = chapter.step_back(x, torch.ones(1).double(), t, s, schedule, eta=1.0)
        assert abs(x.item() - schedule.alpha_bar[s].sqrt().item()) < 0.01
        if s == 500:
            assert x.item() == pytest.approx(0.280, abs=0.01)


def test_ddim_with_all_steps_walks_along_ddpms_mean(chapter, schedule):
    x0_hat, x_t = slices().double(), torch.randn(3, M, 32, 32).double()
    for t in (1, 2, 10, 500, 1000):
        mean, variance = chapter.posterior(x0_hat, x_t, t, schedule)
        z = torch.randn_like(x_t)
        still = chapter.step_back(x_t, x0_hat, t, t - 1, schedule, eta=1.0)
        moved = chapter.step_back(x_t, x0_hat, t, t - 1, schedule, eta=1.0, z=z)
        torch.testing.assert_close(still, mean, atol=1e-10, rtol=0)
        torch.testing.assert_close(moved - still, variance.sqrt() * z, atol=1e-10, rtol=0)


@pytest.mark.parametrize("n", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(chapter, n):
    with pytest.raises(BookError, match="from 1 to T"):
        chapter.timetable(1000, n)


@pytest.mark.parametrize("bend", [1, 2])
def test_times_fall_from_T_to_0(chapter, bend):
    for n in (1, 2, 5, 8, 45, 200, 1000):
        times = chapter.timetable(1000, n, bend)
        assert len(times) == n + 1 and times[0] == 1000 and times[-1] == 0
        assert all(a > b for a, b in pairwise(times))
    assert chapter.timetable(1000, 5) == [1000, 800, 600, 400, 200, 0]


# ---------------------------------------------------------------------------------------------------- people


@pytest.fixture(scope="module")
def people():
    return tumours.cohort(9, seed=3, size=32, slices=2).normalise("unit")


def test_nobody_is_in_two_parts_of_a_fold(chapter, people, monkeypatch):
    monkeypatch.setattr(chapter, "seed", 0, raising=False)
    folds, tested = chapter.deal(people, 3, 3, 2), []
    for training, calibration, test in folds:
        parts = [set(part.people) for part in (training, calibration, test)]
        assert [len(part) for part in parts] == [4, 2, 3] and len(set.union(*parts)) == 9
        tested += test.people
    assert sorted(tested) == sorted(people.people)
    training, calibration, _ = chapter.deal(people, 1, 3, 0)[0]
    assert calibration.people == training.people


@pytest.mark.parametrize("n_folds, n_test, n_calibration", [(1, 9, 0), (4, 3, 0), (1, 5, 4)])
def test_too_few_people_are_refused(chapter, people, monkeypatch, n_folds, n_test, n_calibration):
    monkeypatch.setattr(chapter, "seed", 0, raising=False)
    with pytest.raises(BookError, match="too few"):
        chapter.deal(people, n_folds, n_test, n_calibration)


# ----------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("m, n", [(3, 6), (4, 14)])
def test_all_masks_but_the_extremes(chapter, m, n):
    masks = chapter.all_masks(m)
    assert len(masks) == n == len(set(map(tuple, masks.tolist())))
    assert masks.any(1).all() and not masks.all(1).any()


def test_training_draws_every_mask_equally_often(chapter, schedule, monkeypatch):
    model = chapter.M2DN(schedule=schedule, masks=chapter.all_masks(M), M=M, width=4)
    seen = []
    monkeypatch.setattr(chapter.Denoiser, "forward", lambda self, x, t, v: seen.append(v) or x)
    model(torch.zeros(7000, M, 16, 16))
    _, counts = torch.cat(seen).unique(dim=0, return_counts=True)
    assert len(counts) == 14 and stats.chisquare(counts.numpy()).pvalue > 1e-3
    share = 1 / 14
    assert (counts / 7000 - share).abs().max() < 3 * math.sqrt(share * (1 - share) / 7000)


@pytest.mark.parametrize("extreme", [False, True])
def test_training_refuses_the_two_extreme_masks(chapter, schedule, extreme):
    masks = torch.cat([chapter.all_masks(M), torch.full((1, M), extreme)])
    with pytest.raises(BookError, match="all zeros or all ones"):
        chapter.M2DN(schedule=schedule, masks=masks, M=M, width=4)


@pytest.mark.parametrize("change, said", [
    (lambda x, v: (x, v & False), "all zeros or all ones"),
    (lambda x, v: (x, v | True), "all zeros or all ones"),
    (lambda x, v: (x, v[:, :3]), "expected bool"),
    (lambda x, v: (x, v[:1]), "expected bool"),
    (lambda x, v: (1.5 * x, v), "must lie in"),
    (lambda x, v: (x[..., :31, :], v), "divisible by 16"),
])  # fmt: skip
def test_the_sampler_refuses_wrong_input_in_one_line(chapter, schedule, change, said):
    x, missing = slices(), torch.tensor([[True, False, True, False]]).repeat(3, 1)
    x[0, 1, 0, 0] = 1.0
    for sampler in (chapter.sample, chapter.sample_naive):
        with pytest.raises(BookError, match=said) as error:
            sampler(network(chapter), schedule, *change(x, missing), n=2, seeds=range(3))
        assert "\n" not in str(error.value)


def test_an_unknown_contrast_is_named(chapter):
    assert chapter.mask_of(("FLAIR", "T1w"), ["T1w"]).tolist() == [[False, True]]
    with pytest.raises(BookError, match="unknown contrast 'T7': choose from FLAIR, T1w"):
        chapter.mask_of(("FLAIR", "T1w"), ["T7"])


# --------------------------------------------------------------------------------- available stays as it is


@pytest.mark.parametrize("t", [1, 100, 1000])
def test_available_contrasts_are_never_noised(chapter, schedule, t):
    x, missing = slices(), some_masks(chapter)
    x_t = chapter.noised(x, missing, torch.full((3,), t), torch.randn_like(x), schedule)
    assert torch.equal(x_t[~missing], x[~missing])
    assert not torch.equal(x_t[missing], x[missing])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_available_contrasts_are_bit_identical_at_every_sampling_step(chapter, schedule, eta):
    x, missing, path = slices(), some_masks(chapter), []
    out = chapter.sample(network(chapter), schedule, x, missing, n=4, seeds=range(3), eta=eta, path=path)
    assert len(path) == 4
    for _, x_t in [*path, (0, out)]:
        assert torch.equal(x_t[~missing], x[~missing])


def test_what_stood_in_a_missing_channel_changes_nothing(chapter, schedule):
    x, missing, net = slices(), some_masks(chapter), network(chapter)
    other = torch.where(missing[:, :, None, None], torch.nan, x)
    for sampler in (chapter.sample, chapter.sample_naive):
        a, b = (sampler(net, schedule, start, missing, n=3, seeds=range(3)) for start in (x, other))
        assert torch.equal(a, b) and torch.isfinite(a).all()


# -------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("m, skips, n", [
    (4, "none", 19_121_964), (4, "half", 19_303_084), (3, "none", 12_452_905), (3, "half", 12_568_297),
    (4, "full", 19_565_740),
])  # fmt: skip
def test_parameters_at_the_papers_width(chapter, m, skips, n):
    with torch.device("meta"):
        assert train.n_parameters(chapter.Denoiser(M=m, width=128, skips=skips)) == n


def test_shapes_at_the_bottleneck(chapter):
    net, shapes = network(chapter, skips="half"), []
    net.shared.up[0].register_forward_hook(lambda module, args, out: shapes.append(args[0].shape))
    net.shared.attention[0].register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    out = net(slices(B=2, size=64), torch.tensor([5, 6]), some_masks(chapter, 2))
    assert shapes == [(2, 8, 4, 4), (2, 12, 4, 4)] and out.shape == (2, M, 64, 64)
    assert out.abs().max() <= 1
    assert train.n_parameters(net) == 78_076


def test_the_mask_reaches_the_output_only_with_m(chapter):
    x, t, v = slices(), torch.tensor([5, 50, 500]), some_masks(chapter)
    with torch.no_grad():
        with_m, without = network(chapter), network(chapter, see_mask=False)
        assert not torch.equal(with_m(x, t, v), with_m(x, t, v.roll(1, 1)))
        assert torch.equal(without(x, t, v), without(x, t, v.roll(1, 1)))


def test_the_step_reaches_the_output(chapter):
    x, v, net = slices(), some_masks(chapter), network(chapter)
    with torch.no_grad():
        assert not torch.equal(net(x, torch.full((3,), 10), v), net(x, torch.full((3,), 900), v))


def test_every_weight_gets_a_gradient(chapter, schedule):
    for skips in ("none", "half", "full"):
        model = chapter.M2DN(schedule=schedule, masks=chapter.all_masks(M), M=M, width=8, skips=skips)
        model(slices())["loss"].backward()
        assert not [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]


# ------------------------------------------------------------------------------------------------------ loss


def test_the_loss_is_the_sum_of_its_parts_over_all_contrasts(chapter):
    x, v = slices(), some_masks(chapter)
    x0_hat = slices().requires_grad_()
    parts = chapter.m2dn_loss(x0_hat, x, v)
    torch.testing.assert_close(parts["loss"], parts["synthesis"] + parts["copying"], rtol=1e-6, atol=0)
    torch.testing.assert_close(parts["loss"], (x0_hat - x).square().mean(), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(parts["loss"], x0_hat)
    assert (gradient != 0).flatten(2).any(2).all(), "a contrast is not covered by the joint loss"


def test_without_j_available_contrasts_get_no_gradient(chapter):
    x, v = slices(), some_masks(chapter)
    x0_hat = slices().requires_grad_()
    (gradient,) = torch.autograd.grad(chapter.m2dn_loss(x0_hat, x, v, joint=False)["loss"], x0_hat)
    assert (gradient[~v] == 0).all() and (gradient[v] != 0).any()


def test_the_regression_twin_sees_no_noise(chapter, schedule, monkeypatch):
    model = chapter.M2DN(schedule=schedule, masks=chapter.all_masks(M), M=M, width=4, regression=True)
    seen = []
    monkeypatch.setattr(
        chapter.Denoiser, "forward", lambda self, x, t, v: seen.append((x, t, v)) or x.requires_grad_()
    )
    x = slices(B=8)
    model(x)
    x_in, t, v = seen[0]
    assert (x_in[v] == 0).all() and (t == 1000).all()


def test_averaged_weights_follow(chapter, schedule):
    model = chapter.M2DN(schedule=schedule, masks=chapter.all_masks(M), ema=0.9, M=M, width=4)
    assert not any(p.requires_grad for p in model.average.parameters())
    start = [p.clone() for p in model.average.parameters()]
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(1.0)
    model.follow(0)  # the decay begins at 1/10
    torch.testing.assert_close(next(model.average.parameters()), start[0] + 0.9)
    model.follow(10_000)  # and ends at 0.9
    torch.testing.assert_close(next(model.average.parameters()), start[0] + 0.9 + 0.1 * 0.1)


# -------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("skips", ["none", "half", "full"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_fast_sampler_equals_the_definition(chapter, schedule, skips, eta):
    net = network(chapter, skips=skips).double()
    x, v = slices().double(), some_masks(chapter)
    options = dict(n=4, seeds=[5, 6, 7], eta=eta)
    slow = chapter.sample_naive(net, schedule, x, v, **options)
    torch.testing.assert_close(chapter.sample(net, schedule, x, v, **options), slow, atol=1e-9, rtol=0)
    with torch.no_grad():
        features = net.encode(x)
    before = [f.clone() for f in features]
    cached = chapter.sample(net, schedule, x, v, features=features, **options)
    torch.testing.assert_close(cached, slow, atol=1e-9, rtol=0)
    assert all(map(torch.equal, features, before)), "the caller's features were overwritten"


def test_a_sample_depends_on_its_seed_and_not_on_its_batch(chapter, schedule):
    net, x, v = network(chapter).double(), slices().double(), some_masks(chapter)
    together = chapter.sample(net, schedule, x, v, n=3, seeds=[1, 2, 3], eta=1.0)
    alone = chapter.sample(net, schedule, x[1:2], v[1:2], n=3, seeds=[2], eta=1.0)
    torch.testing.assert_close(together[1:2], alone, atol=1e-9, rtol=0)
    other = chapter.sample(net, schedule, x[1:2], v[1:2], n=3, seeds=[9], eta=1.0)
    assert not torch.allclose(other, alone)


def test_ddim_repeats_itself(chapter, schedule):
    args = network(chapter), schedule, slices(), some_masks(chapter)
    a, b = (chapter.sample(*args, n=4, seeds=range(3)) for _ in range(2))
    assert torch.equal(a, b)


def test_training_learns_to_fill_in(chapter, schedule):
    """On sets whose contrasts are equal, a few steps must beat the average picture."""
    base = torch.nn.functional.interpolate(torch.randn(64, 1, 4, 4), size=32, mode="bilinear").tanh()
    x = base.expand(64, M, 32, 32).contiguous()
    model = chapter.M2DN(schedule=schedule, masks=chapter.all_masks(M), M=M, width=8, ema=0.9)
    optimiser = torch.optim.Adam(model.net.parameters(), 5e-3)
    for i in range(60):
        optimiser.zero_grad()
        model(x[torch.randperm(48)[:8]])["loss"].backward()
        optimiser.step()
        model.follow(i)
    missing = torch.tensor([[True, False, False, False]]).expand(16, M)
    out = chapter.sample(model.average.eval(), schedule, x[48:], missing, n=2, seeds=range(16))
    ours = (out[:, 0] - x[48:, 0]).square().mean()
    assert ours < 0.5 * (x[:48, 0].mean(0) - x[48:, 0]).square().mean()


# ------------------------------------------------------------------------------------------------ evaluation


def test_variance_correction_finds_its_coefficients(chapter):
    spread = torch.rand(200_000) + 0.1
    error = torch.randn(200_000) * (0.04 + 2.0 * spread.square()).sqrt()
    a, b = chapter.fit_variance(spread, error)
    assert a.item() == pytest.approx(0.04, abs=0.02) and b.item() == pytest.approx(2.0, abs=0.1)
    a, b = chapter.fit_variance(spread, torch.randn(200_000))
    assert a.item() == pytest.approx(1.0, abs=0.05) and b.item() < 0.05


def test_predicted_errors_are_fitted_on_the_calibration_people_only(chapter, people):
    calibration = people.select(np.arange(6))
    x = torch.from_numpy(people.images)
    drawn = x + 0.1 * torch.randn(5, *x.shape)
    found = chapter.predicted_errors(drawn, drawn[:, :6], calibration)
    assert set(found) == {"spread", "corrected", "edges", "constant"}
    assert all(sd.shape == x.shape and (sd > 0).all() for sd in found.values())
    other = drawn.clone()
    other[:, 6:] += 5.0  # people that are no part of the calibration
    again = chapter.predicted_errors(other, drawn[:, :6], calibration)
    torch.testing.assert_close(again["constant"], found["constant"])
    level = (drawn[:, :6].mean(0) - x[:6])[:, 0][torch.from_numpy(calibration.mask)].square().mean().sqrt()
    torch.testing.assert_close(found["constant"][0, 0, 0, 0], level, rtol=1e-3, atol=0)


@pytest.fixture
def small_run(chapter, people, schedule, monkeypatch):
    """The chapter's globals as a run would set them, with networks that were not trained."""
    values = dict(seed=0, M=M, T=1000, batch_size=4, learning_rate=1e-3, unet_steps=2, sampling_steps=2)
    values |= dict(spread_steps=2, n_samples=2, schedule=schedule, device=torch.device("cpu"))
    values |= dict(CONTRASTS=people.contrasts, REGION="TC", singles=torch.eye(M).bool())
    values |= dict(nets=[network(chapter)], twins=[network(chapter)])
    for name, value in values.items():
        monkeypatch.setattr(chapter, name, value, raising=False)
    folds = chapter.deal(people, 1, 3, 0)
    monkeypatch.setattr(chapter, "folds", folds, raising=False)
    return folds[0]


def test_no_method_looks_at_what_is_missing(chapter, small_run):
    x = torch.from_numpy(small_run[2].images)
    v = torch.tensor([True, False, True, False])
    hidden = torch.where(v[:, None, None], torch.nan, x)
    methods = chapter.predictors(0)
    assert len(methods) == 7
    for name, f in methods.items():
        with torch.no_grad():
            a, b = f(x, v), f(hidden, v)
        assert torch.equal(a, b) and torch.isfinite(a).all(), name
        assert torch.equal(a[:, ~v], x[:, ~v]), f"{name} changed what is there"


def test_the_mean_image_is_a_mean_over_brains(chapter, small_run):
    training, _, test = small_run
    x, v = torch.from_numpy(test.images), torch.tensor([True, False, False, False])
    mean = chapter.predictors(0)["mean image"](x, v)[0, 0]
    mask, flair = training.mask, training.images[:, 0]
    i, j = np.argwhere(mask.sum(0) > 1)[0]
    assert mean[i, j].item() == pytest.approx(flair[mask[:, i, j], i, j].mean(), abs=1e-5)


def test_the_segmenter_pays_for_what_it_invents(chapter, people, monkeypatch, small_run):
    """The loss grows when probability rises where no region is."""
    steps = []
    monkeypatch.setattr(chapter, "fit", lambda model, data, n, label, step, **options: steps.append(step))
    chapter.fit_segmenter(people)
    truth = torch.zeros(2, 3, 16, 16)
    truth[:, :, 4:8, 4:8] = 1
    good = torch.where(truth > 0, 4.0, -4.0)
    bad = good.clone()
    bad[:, :, 12:, 12:] = 4.0
    right, wrong = (steps[0](lambda x, said=said: said, (None, truth)) for said in (good, bad))
    assert wrong > right + 0.05


def test_samples_of_an_ensemble_do_not_depend_on_the_batch(chapter, small_run):
    test, net = small_run[2], chapter.nets[0]
    together = chapter.ensemble(net, test)
    assert together.shape == (2, len(test), M, 32, 32) and not torch.equal(together[0], together[1])
    first = chapter.ensemble(net, test.select(np.arange(2)))
    torch.testing.assert_close(together[:, :2], first, atol=1e-5, rtol=0)


def test_small_unets_never_see_the_missing_contrast(chapter):
    x, v = slices(), some_masks(chapter)
    hidden = torch.where(v[:, :, None, None], torch.nan, x)
    assert torch.equal(chapter.with_mask(x, v), chapter.with_mask(hidden, v))
    assert chapter.SmallUNet(2 * M, 1)(chapter.with_mask(x, v)).shape == (3, 1, 32, 32)


def test_scores_ignore_available_contrasts():
    x = slices()
    missing = torch.tensor([False, True, False, True])
    frame = images.score(x, x, missing, torch.ones(3, 1, 32, 32).bool(), "abc", list("pqrs"))
    assert set(frame["contrast"]) == {"q", "s"} and np.isinf(frame["psnr"]).all()
    assert frame["ssim"].to_numpy() == pytest.approx(1.0)
