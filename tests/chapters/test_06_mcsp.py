"""The invariants of MCSP, on the functions and classes of the notebook itself."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from helpers import chapters, evaluate, frozen, train
from helpers.data.cohort import Atlas
from helpers.errors import BookError

R, LENGTH, S = 12, 40, 16
KEYS = [(M, D) for M in ("fmri", "eeg") for D in ("spatial", "temporal", "frequency")]


@pytest.fixture(scope="module")
def chapter():
    return chapters.load("06_mcsp")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make_bank(S=S, R=R, K=5):
    """Random inputs of S people with two runs; a number of each person is in every input."""
    who = torch.randn(S, 1, 1, 1)
    graph = torch.randn(S, 2, R, R) + who
    bank = {("fmri", "spatial"): graph + graph.mT, ("eeg", "spatial"): (graph + graph.mT) * 0.5 + who}
    for D in ("temporal", "frequency"):
        bank["fmri", D] = torch.randn(S, 2, R, LENGTH) + who
        bank["eeg", D] = torch.randn(S, 2, K, R, LENGTH) + who[..., None]
    return {key: bank[key] for key in KEYS}


def make_model(chapter, *, n_components=4, K=None, shapes=None, **options):
    default = {(M, D): (R, R if D == "spatial" else LENGTH) for M, D in KEYS}
    size = dict(d=8, n_heads=2, depth=1, d_head=16, n_components=n_components, K=K)
    return chapter.MCSP(shapes=shapes or default, **size | options)


def all_pairs(rows):
    return np.array([(s, a, b) for s in rows for a in range(2) for b in range(2)])


def inputs(chapter, bank, rows=range(4), K=3):
    person = torch.tensor(list(rows))
    run = torch.zeros_like(person)
    return chapter.gather(bank, (person, run, run), K=K, training=False)


# ------------------------------------------------------------------------------------------------- InfoNCE


def vectors_with_cosines(s, n=8):
    """a, b (n, 2n) with matched cosine s and all others 0."""
    a = torch.eye(n, 2 * n)
    b = s * a + math.sqrt(1 - s**2) * torch.eye(2 * n)[n:]
    return a, b


def test_infonce_falls_with_the_matched_similarity(chapter):
    losses = [chapter.info_nce(*vectors_with_cosines(s), tau=0.2).item() for s in np.linspace(0, 1, 21)]
    assert (np.diff(losses) < 0).all()


def test_infonce_at_initialisation_is_log_n(chapter):
    a, b = torch.randn(2, 128, 128)
    assert chapter.info_nce(a, b, tau=0.2).item() == pytest.approx(math.log(128), rel=0.05)
    same = torch.ones(128, 8)
    assert chapter.info_nce(same, same, tau=0.2).item() == pytest.approx(math.log(128), abs=1e-5)


def test_infonce_by_hand_and_symmetric(chapter):
    a, b = torch.randn(2, 5, 7)
    s = torch.tensor([[torch.cosine_similarity(x, y, dim=0) for y in b] for x in a]) / 0.3
    rows = -torch.stack([s[i, i] - s[i].exp().sum().log() for i in range(5)]).mean()
    columns = -torch.stack([s[i, i] - s[:, i].exp().sum().log() for i in range(5)]).mean()
    torch.testing.assert_close(chapter.info_nce(a, b, tau=0.3), (rows + columns) / 2)
    torch.testing.assert_close(chapter.info_nce(a, b, tau=0.3), chapter.info_nce(b, a, tau=0.3))


def test_pairs_of_one_person_are_no_negatives(chapter):
    a, b = torch.randn(2, 6, 7)
    subject = torch.tensor([0, 0, 1, 2, 2, 2])
    same = subject[:, None] == subject[None]
    logits = {}
    original, F_ce = a.clone().requires_grad_(), chapter.F.cross_entropy

    def spy(s, target):
        s.retain_grad()
        logits.setdefault("s", s)
        return F_ce(s, target)

    chapter.F.cross_entropy = spy
    try:
        chapter.info_nce(original, b, tau=0.2, same=same).backward()
    finally:
        chapter.F.cross_entropy = F_ce
    own = torch.eye(6, dtype=torch.bool)
    assert torch.isinf(logits["s"][same & ~own]).all(), "a pair of the same person counts as a negative"
    assert torch.isfinite(logits["s"][own]).all(), "a positive was masked"
    # the loss does not see those partners: moving them changes nothing for rows of other people
    two = chapter.info_nce(a[:2], b[:2], tau=0.2, same=torch.ones(2, 2, dtype=torch.bool))
    assert two.item() == 0, "with only one person there is nothing to tell apart"


def test_masked_cells_give_no_gradient(chapter):
    a, b = torch.randn(2, 4, 7)
    b.requires_grad_()
    subject = torch.tensor([0, 0, 1, 2])
    same = subject[:, None] == subject[None]
    chapter.info_nce(a, b, tau=0.2, same=same).backward()
    masked = b.grad.clone()
    # gradient by hand from a softmax over the allowed cells
    c = b.detach().clone().requires_grad_()
    s = F.normalize(a, dim=-1) @ F.normalize(c, dim=-1).mT / 0.2
    keep = ~same | torch.eye(4, dtype=torch.bool)
    rows = -sum(s[i, i] - s[i][keep[i]].logsumexp(0) for i in range(4)) / 4
    columns = -sum(s[i, i] - s[:, i][keep[:, i]].logsumexp(0) for i in range(4)) / 4
    ((rows + columns) / 2).backward()
    torch.testing.assert_close(masked, c.grad)


# -------------------------------------------------------------------------------------------- printed losses


@pytest.mark.parametrize("tau, n", [(0.2, 128), (0.1, 32), (0.2, 64)])
def test_printed_loss_has_its_minimum_away_from_alignment(chapter, tau, n):
    grid = np.linspace(0, 1, 1001)
    loss = [chapter.printed_im(*vectors_with_cosines(float(s), n), tau=tau).item() for s in grid]
    assert grid[int(np.argmin(loss))] == pytest.approx(tau / 2 * math.log(n - 1), abs=0.005)


def test_printed_loss_is_that_formula(chapter):
    for s in (0.0, 0.3, 0.484, 0.8, 1.0):
        a, b = vectors_with_cosines(s, n=16)
        formula = math.log(math.exp(2 * s / 0.2) + 15) - s / 0.2
        assert chapter.printed_im(a, b, tau=0.2).item() == pytest.approx(formula, rel=1e-4)


def test_temperature_outside_the_exponent(chapter):
    z, z_hat = torch.randn(2, 9, 6)
    s = torch.tensor([[torch.cosine_similarity(x, y, dim=0) for y in z] for x in z])
    own = torch.cosine_similarity(z, z_hat, dim=-1)
    by_hand = torch.stack([-torch.log(torch.exp(own[i] / 0.2) / (s[i].exp() / 0.2).sum()) for i in range(9)])
    torch.testing.assert_close(chapter.printed_id(z, z_hat, tau=0.2), by_hand.mean())


def test_divergences(chapter):
    p, q, r = torch.randn(3, 50, 10)
    lp, lq = p.log_softmax(-1), q.log_softmax(-1)
    assert chapter.kl(lp, lq) > 0 and chapter.kl(lp, lp).abs() < 1e-6
    assert chapter.jensen_shannon(p, q, r) > 0
    assert chapter.jensen_shannon(p, p, p).abs() < 1e-6
    torch.testing.assert_close(chapter.jensen_shannon(p, q, r), chapter.jensen_shannon(r, p, q))
    assert chapter.jensen_shannon(p, q, r) <= math.log(3)
    assert (chapter.printed_cm(p, q, r) - chapter.printed_cm(q, p, r)).abs() > 1e-3  # direction matters


# --------------------------------------------------------------------------------------------- augmentations


FIXED = torch.Generator().manual_seed(0)
CONTEXT = dict(affinity=torch.randn(R, R, generator=FIXED), coords=50 * torch.randn(R, 3, generator=FIXED))


def operations(chapter):
    return [("spatial", *x) for x in chapter.GRAPH.items()] + [
        ("frequency", *x) for x in chapter.POINTS.items()
    ]


def test_six_graph_and_four_point_operations(chapter):
    assert len(chapter.GRAPH) == 6 and len(chapter.POINTS) == 4


@pytest.mark.parametrize("number", range(10))
def test_augmentation(chapter, number):
    domain, name, operation = operations(chapter)[number]
    x = torch.randn(6, R, R if domain == "spatial" else LENGTH)
    x = (x + x.mT) * (1 - torch.eye(R)) if domain == "spatial" else x
    before = x.clone()
    torch.manual_seed(1)
    y = operation(x, 0.8, **CONTEXT)
    torch.manual_seed(1)
    again = operation(x, 0.8, **CONTEXT)
    assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all()
    assert torch.equal(x, before), f"{name} changed its input"
    assert torch.equal(y, again), f"{name} is not seeded"
    assert not torch.equal(y, x), f"{name} did nothing"
    if domain == "spatial":
        torch.testing.assert_close(y, y.mT)
        assert (y.diagonal(dim1=1, dim2=2) == 0).all()
    torch.testing.assert_close(operation(x, 0.0, **CONTEXT), x)


def test_subgraph_keeps_the_promised_share_around_its_seed(chapter):
    x = torch.ones(20, R, R)
    kept = (chapter.subgraph(x, 0.25, **CONTEXT).sum(-1) > 0).sum(-1)
    assert (kept == R - int(0.25 * R)).all()


def test_subgraph_keeps_the_regions_closest_to_its_seed(chapter):
    kept = chapter.subgraph(torch.ones(20, R, R), 0.5, **CONTEXT).sum(-1) > 0
    rows = CONTEXT["affinity"].clone().fill_diagonal_(torch.inf)  # a seed is closest to itself
    nearest = [set(row.argsort(descending=True)[: R - R // 2].tolist()) for row in rows]
    assert all(set(k.nonzero().flatten().tolist()) in nearest for k in kept)


def test_rotation_by_a_tiny_angle_moves_nothing(chapter):
    x = torch.randn(3, R, R)
    assert torch.equal(chapter.rotate(x, 1e-6, **CONTEXT), x)


def test_augmenter_handles_segments_and_a_choice(chapter):
    augment = chapter.Augmenter(**CONTEXT, rate=0.3, only=["flip"], n_drawn=1)
    x = torch.randn(50, 3, R, LENGTH)
    y = augment(x, "temporal")
    flipped = (y == x.flip(-1)).all(-1).all(-1)
    assert y.shape == x.shape and 0.3 < flipped.float().mean() < 0.7
    still = chapter.Augmenter(**CONTEXT, rate=0.0)
    assert torch.equal(still(x, "temporal"), x)


# --------------------------------------------------------------------------------------------------- domains


def test_domain_shapes_and_scale_freedom(chapter):
    rng = np.random.default_rng(0)
    bold, eeg = rng.standard_normal((R, 150)), rng.standard_normal((R, 2500))
    for scale in (1.0, 1e6):
        b, e = (bold * scale).astype("float32"), (eeg * scale).astype("float32")
        segments = chapter.eeg_temporal(e, 250.0)
        out = [chapter.fmri_spatial(b), chapter.fmri_temporal(b), chapter.fmri_frequency(b)]
        out += [chapter.eeg_spatial(e, 250.0), segments, chapter.eeg_frequency(segments)]
        assert [x.shape for x in out] == [
            (R, R), (R, 200), (R, 200), (R, R), (12, R, 200), (12, R, 200),
        ]  # fmt: skip
        if scale == 1.0:
            first = out
    for x, y in zip(first, out, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)
    for x in (first[0], first[3]):
        np.testing.assert_array_equal(x, x.T)
        assert (np.diag(x) == 0).all()


def test_a_zero_lag_copy_has_no_envelope_coupling(chapter):
    eeg = np.random.default_rng(0).standard_normal((R, 2500)).astype("float32")
    eeg[3] = -2.5 * eeg[7]
    assert chapter.eeg_spatial(eeg, 250.0)[3, 7] == pytest.approx(0, abs=1e-6)


def test_envelope_coupling_is_that_of_every_pair_alone(chapter):
    """The second-moment form against the definition: orthogonalise, log power, correlate, both ways."""
    eeg = np.random.default_rng(1).standard_normal((6, 2500)).astype("float32")
    eeg[1] += 0.6 * np.roll(eeg[0], 7)  # a coupling with a lag
    z, slow = chapter.analytic(eeg, 250.0, (8.0, 13.0)), np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            if i != j:
                left = np.imag(z[j] * z[i].conj()) / np.abs(z[i])
                r = np.corrcoef(np.log(left**2 + 1e-9), np.log(np.abs(z[i]) ** 2 + 1e-9))[0, 1]
                slow[i, j] += np.arctanh(r) / 2
                slow[j, i] += np.arctanh(r) / 2
    np.testing.assert_allclose(chapter.eeg_spatial(eeg, 250.0), slow, atol=0.02)  # floors of the logs differ
    assert abs(slow[0, 1]) > 0.02


def paired_cohort(missing=False):
    from helpers.data.cohort import Provenance
    from helpers.data.paired import PairedCohort

    rng = np.random.default_rng(0)
    arrays = paired_arrays()
    arrays["eeg"] = [[rng.standard_normal((6, 1000 + 250 * r)) for r in range(2)] for _ in range(4)]
    arrays["bold"] = [[rng.standard_normal((6, 60)) for r in range(2)] for _ in range(4)]
    if missing:
        arrays["eeg"][2][0] = None
    return PairedCohort.validate(**arrays, provenance=Provenance("test", "made here", "none", "none"))


def test_a_missing_run_takes_no_place_of_its_own(chapter):
    whole = chapter.build_bank(paired_cohort(), length=200)
    part = chapter.build_bank(paired_cohort(missing=True), length=200)
    assert whole["eeg", "temporal"].shape == (4, 2, 5, 6, 200)  # the shortest run has five segments
    assert whole["fmri", "spatial"].shape == (4, 2, 6, 6)
    for key in KEYS:
        torch.testing.assert_close(part[key][[0, 1, 3]], whole[key][[0, 1, 3]])
        if key[0] == "eeg":  # run 0 is missing: the other one stands in, and cohort.pairs() never asks for it
            torch.testing.assert_close(part[key][2, 0], whole[key][2, 1])
    for s, r in ((1, 0), (1, 1)):
        run = chapter.fmri_spatial(paired_cohort().fmri(s, r))
        np.testing.assert_allclose(whole["fmri", "spatial"][s, r], run)
        coupling = chapter.eeg_spatial(paired_cohort().signal(s, r), 250.0)
        np.testing.assert_allclose(whole["eeg", "spatial"][s, r], coupling)
    pairs = paired_cohort(missing=True).pairs()
    assert not ((pairs[:, 0] == 2) & (pairs[:, 2] == 0)).any()


def test_alpha_power_reads_the_right_bins(chapter):
    bank = {("eeg", "frequency"): torch.zeros(3, 2, 4, R, 200)}
    hertz = np.linspace(1.25, 45, 200)
    bank["eeg", "frequency"][1, :, :, 5, np.abs(hertz - 10) < 1.5] = 1.0
    power = chapter.alpha_power(bank)
    assert power.shape == (3, R) and power[1, 5] > 0.5 and power.sum() == pytest.approx(power[1, 5])


def test_one_scale_a_run_keeps_band_power(chapter):
    eeg = np.random.default_rng(0).standard_normal((R, 2500)).astype("float32")
    eeg[5] *= 2
    segments = chapter.eeg_temporal(eeg, 250.0)
    assert segments[:, 5].std() / segments[:, 0].std() == pytest.approx(2, abs=0.15)


# ----------------------------------------------------------------------------------------------------- model


def test_encoders_are_shared_and_heads_are_private(chapter):
    model = make_model(chapter)
    assert len(model.encoders) == 3 and len(model.heads) == 6
    assert len({id(m) for m in model.heads.values()}) == 6
    used = []
    for D, encoder in model.encoders.items():
        encoder.register_forward_hook(lambda m, x, y, D=D: used.append((D, len(x[0]))))
    model.encode(model.scale(inputs(chapter, make_bank())))
    wanted = [
        ("spatial", 4),
        ("temporal", 4),
        ("frequency", 4),
        ("spatial", 4),
        ("temporal", 12),
        ("frequency", 12),
    ]
    assert used == wanted, "each encoder must see both modalities, EEG with its three segments"
    assert len(make_model(chapter, private=True).encoders) == 6


def test_shapes(chapter):
    model = make_model(chapter)
    e = model.encode(model.scale(inputs(chapter, make_bank())))
    assert list(e) == KEYS
    assert {key: x.shape[1] for key, x in e.items()} == {
        key: 8 if key[1] == "temporal" else 12 for key in KEYS
    }
    h, fused = model.project(e)
    assert all(x.shape == (4, 16) for x in [*h.values(), *fused.values()]) and len(fused) == 3
    assert model.classify(e).shape == (4,)


def test_chunks_of_segments_change_nothing(chapter):
    """K = 125 in chunks is K = 125 at once, and the order of the segments does not matter."""
    model = make_model(chapter, shapes={("eeg", "temporal"): (R, LENGTH)}).eval()
    x = torch.randn(2, 125, R, LENGTH)
    whole = model.encode({("eeg", "temporal"): x})["eeg", "temporal"]
    encoder = model.encoders["temporal"]
    parts = torch.cat([encoder(c.flatten(0, 1)).view(2, c.shape[1], -1) for c in x.split(10, 1)], 1)
    torch.testing.assert_close(model.pools["temporal"](parts), whole, atol=1e-5, rtol=1e-5)
    shuffled = model.encode({("eeg", "temporal"): x[:, torch.randperm(125)]})["eeg", "temporal"]
    torch.testing.assert_close(shuffled, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "concat"])
def test_other_pools(chapter, pool):
    model = make_model(chapter, pool=pool, K=3)
    assert model.classify(model.encode(model.scale(inputs(chapter, make_bank())))).isfinite().all()


def test_edges_bias_the_attention(chapter):
    block = chapter.Block(d=8, n_heads=2)
    z, edges = torch.randn(3, R, 8), torch.randn(3, R, R)
    torch.testing.assert_close(block(z, edges), block(z), atol=1e-5, rtol=1e-5)  # the weight starts at zero
    block.w.data.fill_(1.0)
    assert (block(z, edges) - block(z)).abs().max() > 1e-3
    block(z, edges).sum().backward()
    assert (block.w.grad != 0).all()


def test_heads_must_divide_the_width(chapter):
    with pytest.raises(AssertionError, match="cannot be split"):
        chapter.Block(d=10, n_heads=3)


@pytest.mark.parametrize("content", [0.0, 1e30, float("nan")])
@pytest.mark.parametrize("absent, there", [("eeg", "fmri"), ("fmri", "eeg")])
def test_a_missing_modality_does_not_matter(chapter, absent, there, content):
    model, x = make_model(chapter).eval(), inputs(chapter, make_bank())
    alone = model.classify(model.encode({key: v for key, v in x.items() if key[0] == there}))
    filled = {key: torch.full_like(v, content) if key[0] == absent else v for key, v in x.items()}
    present = {M: torch.full((4,), M == there) for M in ("fmri", "eeg")}
    masked = model.classify(model.encode(filled), present)
    assert masked.isfinite().all()
    torch.testing.assert_close(masked, alone, atol=1e-5, rtol=1e-5)


def test_components_are_those_of_the_training_people(chapter):
    scale, x = chapter.Scale(shape=(R, R), k=3, entrywise=True), torch.randn(20, R, R)
    scale.fit(x)
    z = ((x - x.mean(0)) / x.std(0)).flatten(1)
    _, _, vt = torch.linalg.svd(z, full_matrices=False)
    ours = torch.linalg.qr(scale.axes)[0]
    torch.testing.assert_close(ours @ ours.T, vt[:3].T @ vt[:3], atol=1e-3, rtol=0)  # the same subspace
    assert (z @ scale.axes).var(0).mean().item() == pytest.approx(1, rel=0.1)


def test_parameter_count_counts_shared_encoders_once(chapter):
    shared, private = (train.n_parameters(make_model(chapter, private=x)) for x in (False, True))
    one = sum(train.n_parameters(e) for e in make_model(chapter).encoders.values())
    assert private - shared == one


# -------------------------------------------------------------------------------------------------- training


def small_objective(chapter, **options):
    return chapter.Objective(**dict(tau=0.2, alpha=0.8) | options)


def one_step(chapter, bank, model=None, **options):
    model = model or make_model(chapter)
    augment = chapter.Augmenter(**CONTEXT, rate=0.2)
    batch = tuple(torch.as_tensor(c) for c in all_pairs(range(6)).T)
    setting = dict(bank=bank, augment=augment, objective=small_objective(chapter, **options), K=2)
    return model, chapter.pretrain_step(model, batch, **setting)


def test_all_parts_of_the_loss_are_there(chapter):
    _, out = one_step(chapter, make_bank())
    wanted = {"loss", "ID_fmri", "ID_eeg", "CD_fmri", "CD_eeg", "IM", "CM", "rank", "entropy"}
    assert set(out) == wanted and all(torch.isfinite(v) for v in out.values())
    total = 0.8 * (out["ID_fmri"] + out["ID_eeg"] + out["IM"]) + 0.2 * (
        out["CD_fmri"] + out["CD_eeg"] + out["CM"]
    )
    torch.testing.assert_close(out["loss"], total)
    assert out["rank"] > 4 and 0 < out["entropy"] <= 1


def test_nobody_is_their_own_negative_in_any_loss(chapter):
    """With one person in the batch only the pair itself is left: every matching loss is zero."""
    h, h_hat = ({key: torch.randn(6, 5) for key in KEYS} for _ in range(2))
    fused, person = {D: torch.randn(6, 5) for D in chapter.DOMAINS}, torch.zeros(6, dtype=torch.long)
    for every in (False, True):
        out = small_objective(chapter, all_pairs=every)(h, h_hat, fused, person)
        matching = [out[name].item() for name in out if name[:2] in ("ID", "CD", "IM")]
        assert matching == [0.0] * 5
        out = small_objective(chapter, all_pairs=every, mask_same=False)(h, h_hat, fused, person)
        assert all(out[name] > 0.1 for name in out if name[:2] in ("ID", "CD", "IM"))


def test_all_pairs_is_the_mean_of_nine(chapter):
    h, h_hat = ({key: torch.randn(7, 5) for key in KEYS} for _ in range(2))
    fused, person = {D: torch.randn(7, 5) for D in chapter.DOMAINS}, torch.arange(7)
    out = small_objective(chapter, all_pairs=True)(h, h_hat, fused, person)
    nine = [
        chapter.info_nce(h["fmri", x], h["eeg", y], tau=0.2)
        for x in chapter.DOMAINS
        for y in chapter.DOMAINS
    ]
    torch.testing.assert_close(out["IM"], torch.stack(nine).mean())


def test_objective_by_hand(chapter):
    h, h_hat = ({key: torch.randn(7, 5) for key in KEYS} for _ in range(2))
    fused, person = {D: torch.randn(7, 5) for D in chapter.DOMAINS}, torch.arange(7)
    out = small_objective(chapter)(h, h_hat, fused, person)

    def nce(a, b):
        return chapter.info_nce(a, b, tau=0.2)

    def mean(terms):
        return torch.stack(list(terms)).mean()

    domains = chapter.DOMAINS
    torch.testing.assert_close(out["ID_eeg"], mean(nce(h["eeg", D], h_hat["eeg", D]) for D in domains))
    pairs = [("spatial", "temporal"), ("spatial", "frequency"), ("temporal", "frequency")]
    torch.testing.assert_close(out["CD_fmri"], mean(nce(h["fmri", a], h["fmri", b]) for a, b in pairs))
    torch.testing.assert_close(out["IM"], mean(nce(h["fmri", D], h["eeg", D]) for D in domains))
    js = chapter.jensen_shannon
    torch.testing.assert_close(out["CM"], mean(js(h["fmri", D], h["eeg", D], fused[D]) for D in domains))


def test_without_eeg_only_the_fmri_bracket_is_left(chapter):
    model, out = one_step(chapter, {key: x for key, x in make_bank().items() if key[0] == "fmri"})
    torch.testing.assert_close(out["loss"], 0.8 * out["ID_fmri"] + 0.2 * out["CD_fmri"])
    out["loss"].backward()
    assert all(p.grad is None for p in model.heads["eeg_spatial"].parameters())


@pytest.mark.parametrize(
    "options", [dict(printed=True), dict(all_pairs=True), dict(mask_same=False), dict(drop=["IM", "CD"])]
)
def test_variants_of_the_objective_train(chapter, options):
    model, out = one_step(chapter, make_bank(), **options)
    out["loss"].backward()
    assert out["loss"].isfinite() and model.encoders["spatial"].embed.weight.grad.abs().sum() > 0


def test_every_weight_but_the_classifier_gets_a_gradient(chapter):
    model, out = one_step(chapter, make_bank())
    out["loss"].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    graph_only = {"encoders.temporal.blocks.0.w", "encoders.frequency.blocks.0.w"}  # edge weights
    bands_only = {"pools.spatial.score.weight", "pools.spatial.score.bias"}  # EEG connectomes in one band
    classifier = {name for name, _ in model.named_parameters() if name.startswith("readouts")}
    assert without - graph_only - bands_only == classifier


def test_pretraining_leaves_the_test_people_alone(chapter):
    """NaN in a test person changes nothing; a changed training person changes the scale."""
    bank, rows = make_bank(), np.arange(10)
    augment = chapter.Augmenter(**CONTEXT, rate=0.2)
    setting = dict(augment=augment, objective=small_objective(chapter), epochs=1, batch_size=16)

    def weights(bank):
        size = dict(d=8, n_heads=2, depth=1, d_head=16, n_components=4)
        model = chapter.build(bank, rows, seed=0, **size)
        chapter.pretrain(model, bank, all_pairs(rows), **setting)
        return model.state_dict()

    chapter.SIZE, chapter.device = {}, torch.device("cpu")
    clean, dirty = weights(bank), {key: x.clone() for key, x in bank.items()}
    for x in dirty.values():
        x[12] = torch.nan
    spoiled = weights(dirty)
    assert all(torch.equal(clean[k], spoiled[k]) for k in clean)
    moved = {key: x.clone() for key, x in bank.items()}
    moved["fmri", "spatial"][3] += 1
    other = chapter.build(
        moved, rows, seed=0, d=8, n_heads=2, depth=1, d_head=16, n_components=4
    ).state_dict()
    assert not torch.equal(other["scales.fmri_spatial.mean"], clean["scales.fmri_spatial.mean"])


def test_folds_share_no_person_and_no_pair(chapter):
    people = pd.DataFrame(dict(participant_id=[f"s{i}" for i in range(40)], group=["control", "patient"] * 20,
                               site=np.repeat(["a", "b"], 20)))  # fmt: skip
    for s in evaluate.splits(people, n_splits=4, n_repeats=1, seed=0):
        chapter.pairs = all_pairs(range(40))
        used = chapter.pairs_of(s.train)
        assert not set(used[:, 0]) & set(s.test) and len(used) == 4 * len(s.train)


def test_segments_random_in_training_and_even_at_test(chapter):
    picked = chapter.pick_segments(25, 200, 4, True)
    assert all(len(set(row.tolist())) == 4 for row in picked) and picked.max() == 24
    assert chapter.pick_segments(25, 2, 5, False).tolist() == [[0, 6, 12, 18, 24]] * 2


def test_temporal_and_frequency_see_the_same_segments(chapter):
    bank = make_bank()
    bank["eeg", "frequency"] = bank["eeg", "temporal"] * 10
    person = torch.arange(8)
    x = chapter.gather(bank, (person, person * 0, person * 0), K=2)
    torch.testing.assert_close(x["eeg", "frequency"], x["eeg", "temporal"] * 10)


# ------------------------------------------------------------------------------- fine-tuning and distillation


def test_classifier_starts_as_the_probe(chapter):
    chapter.SIZE, chapter.device, chapter.n_segments_test = {}, torch.device("cpu"), 3
    bank, rows = make_bank(S=40), np.arange(30)
    y = (bank["fmri", "spatial"][:, 0, 0, 1] > 0).numpy().astype(int)
    size = dict(d=8, n_heads=2, depth=1, d_head=16, n_components=4)
    model = chapter.start_readouts(chapter.build(bank, rows, **size), bank, rows, y)
    x = chapter.flat(chapter.embed(model, bank))
    probe = evaluate.linear_probe("logistic").fit(x[rows], y[rows])
    ours = chapter.score(model, bank, np.arange(30, 40))
    assert np.corrcoef(ours, probe.decision_function(x[30:]))[0, 1] > 0.99


SMALL = dict(d=8, n_heads=2, depth=1, d_head=16, n_components=4)


def study_of(chapter, S=40, bank=None, **globals_):
    """The chapter's globals for a small study of S people in two folds; its fold models, untrained."""
    bank = make_bank(S=S) if bank is None else bank
    people = pd.DataFrame(dict(participant_id=[f"s{i}" for i in range(S)], site="a"))
    people["group"] = np.tile(["control", "patient"], S // 2)
    splits = evaluate.splits(people, n_splits=2, n_repeats=1, seed=0)
    chapter.SIZE, chapter.device, chapter.n_segments_test, chapter.n_segments = (
        SMALL,
        torch.device("cpu"),
        3,
        2,
    )
    chapter.y, chapter.splits, chapter.banks = np.arange(S) % 2, splits, [bank, bank]
    chapter.pairs, chapter.people = all_pairs(range(S)), people
    chapter.pretrained = [chapter.build(bank, s.train, seed=s.fold) for s in splits]
    chapter.whole = [chapter.embed(m, bank) for m in chapter.pretrained]
    chapter.NEW_HEAD = dict(probe=False, encoder_rate=1.0)
    chapter.predictions = {}
    for name, value in globals_.items():
        setattr(chapter, name, value)
    return splits


def test_labels_never_reach_the_test_people(chapter):
    """Fine-tuning with a probe start and modality dropout: NaN in test people changes no weight."""
    splits = study_of(chapter)
    rows, clean = splits[0].train, chapter.banks[0]
    dirty = {key: x.clone() for key, x in clean.items()}
    for x in dirty.values():
        x[splits[0].test] = torch.nan
    y_dirty = chapter.y.astype(float)
    y_dirty[splits[0].test] = 99
    setting = dict(p_drop=0.4, epochs=1)
    one = chapter.finetune(chapter.pretrained[0], clean, rows, chapter.y, **setting)
    two = chapter.finetune(chapter.pretrained[0], dirty, rows, y_dirty, **setting)
    weights = one.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in two.state_dict().items())
    assert not torch.equal(weights["readouts.eeg.weight"], chapter.pretrained[0].readouts["eeg"].weight)


def test_probe_start_does_not_depend_on_who_embedded(chapter):
    import copy

    splits = study_of(chapter)
    given = chapter.some(chapter.whole[0], splits[0].train)
    a, b = (copy.deepcopy(chapter.pretrained[0]) for _ in range(2))
    arguments = (chapter.banks[0], splits[0].train, chapter.y, 0.3)
    chapter.start_readouts(a, *arguments)
    chapter.start_readouts(b, *arguments, given)
    torch.testing.assert_close(a.readouts["fmri"].weight, b.readouts["fmri"].weight)


def test_probe_start_does_not_depend_on_units(chapter):
    """Columns of e in other units give the same scores: the probe standardises, the read-out undoes it."""
    import copy

    splits = study_of(chapter)
    e = chapter.some(chapter.whole[0], splits[0].train)
    units = {key: 50 * torch.rand(x.shape[1]) + 0.1 for key, x in e.items()}
    other = {key: units[key] * x + 7 for key, x in e.items()}
    first = chapter.whole[0]["fmri", "spatial"][:, 0]
    y, scores = (first > first.median()).numpy().astype(int), []
    for given in (e, other):
        model = copy.deepcopy(chapter.pretrained[0])
        chapter.start_readouts(model, chapter.banks[0], splits[0].train, y, 0.3, given)
        scores.append(model.classify(given).detach())
    assert (scores[0] - scores[1]).abs().max() < 0.02 * scores[0].std()


def test_dropped_modality_has_no_part_in_the_step(chapter):
    """Modality dropout hides one modality of a sample: its loss is that of the other one alone."""
    study_of(chapter)
    model, bank = chapter.pretrained[0], chapter.banks[0]
    batch = tuple(torch.as_tensor(c) for c in all_pairs(range(4)).T)
    y = torch.from_numpy(chapter.y).float()
    torch.manual_seed(5)
    loss = chapter.finetune_step(model, batch, bank=bank, y=y, p_drop=1.0)
    torch.manual_seed(5)
    inputs = chapter.gather(bank, batch, K=2)
    which = torch.rand(2, 16)[1]
    e = model.encode(model.scale(inputs))
    alone = {M: model.classify({key: x for key, x in e.items() if key[0] == M}) for M in ("fmri", "eeg")}
    logit = torch.where(which < 0.5, alone["eeg"], alone["fmri"])
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logit, y[batch[0]]))


def test_a_gone_modality_does_not_reach_the_probe_or_the_imputed_model(chapter):
    study_of(chapter)
    for gone in ("fmri", "eeg"):
        split = chapter.splits[0]
        clean = chapter.probe_missing(split, gone, 0.3)
        for key, e in chapter.whole[0].items():
            if key[0] == gone:
                e[split.test] = torch.nan
        assert np.isfinite(clean).all()
        np.testing.assert_array_equal(chapter.probe_missing(split, gone, 0.3), clean)
        study_of(chapter)
    blocks = [chapter.linear_blocks(chapter.banks[0])] * 2
    chapter.blocks, chapter.linear = blocks, {"linear, both": [chapter.joined(b) for b in blocks]}
    split = chapter.splits[0]
    first = chapter.linear_missing(split, "eeg")
    moved = {key: x.copy() for key, x in blocks[0].items()}
    for key in moved:
        if key[0] == "eeg":
            moved[key][split.test] += 5
    chapter.blocks, chapter.linear = [moved] * 2, {"linear, both": [chapter.joined(moved)] * 2}
    np.testing.assert_allclose(chapter.linear_missing(split, "eeg"), first, atol=1e-6)
    moved_scores = chapter.linear_missing(split, "fmri")  # the moved modality is the one that is there
    chapter.blocks, chapter.linear = blocks, {"linear, both": [chapter.joined(b) for b in blocks]}
    assert np.abs(moved_scores - chapter.linear_missing(split, "fmri")).max() > 1e-3


def test_late_fusion_scales_by_training_people_only(chapter):
    splits = study_of(chapter)
    split, bank = splits[0], chapter.banks[0]
    chapter.single = {M: chapter.pretrained for M in ("fmri", "eeg")}
    for M in ("fmri", "eeg"):
        torch.nn.init.normal_(chapter.pretrained[0].readouts[M].weight)
    by_hand = 0.0
    for M in ("fmri", "eeg"):
        part = chapter.only(bank, M)
        by_hand += chapter.score(chapter.pretrained[0], part, split.test) / chapter.score(
            chapter.pretrained[0], part, split.train
        ).std()
    np.testing.assert_allclose(chapter.late_fusion(split), by_hand, rtol=1e-5)
    for x in bank.values():
        x[split.test[1:]] += 10  # other test people move no score
    assert chapter.late_fusion(split)[0] == pytest.approx(by_hand[0], rel=1e-4)


def test_places_are_brought_together_by_training_people(chapter):
    place = np.array(["a", "b"] * 20)
    bank = {("fmri", "spatial"): torch.randn(40, 1, R, R)}
    bank["fmri", "spatial"][1::2] = 3 * bank["fmri", "spatial"][1::2] + 5
    rows = np.arange(30)
    out = chapter.harmonise(bank, place, rows)["fmri", "spatial"]
    a, b = (out[rows[place[rows] == name]] for name in "ab")
    torch.testing.assert_close(a.mean(0), b.mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(a.std(0), b.std(0), atol=2e-2, rtol=0.02)
    dirty = {key: x.clone() for key, x in bank.items()}
    dirty["fmri", "spatial"][35] += 100  # a test person
    again = chapter.harmonise(dirty, place, rows)["fmri", "spatial"]
    keep = np.arange(40) != 35
    torch.testing.assert_close(again[keep], out[keep])
    dirty["fmri", "spatial"][3] += 100  # a training person
    assert not torch.equal(chapter.harmonise(dirty, place, rows)["fmri", "spatial"][keep], out[keep])


def test_a_corpus_is_brought_to_the_scale_of_the_pairs(chapter):
    study_of(chapter)
    corpus = 7 + 3 * torch.randn(50, 1, R, R)
    bank = chapter.alone(corpus, chapter.pretrained[0])
    scaled = chapter.pretrained[0].scale({key: x[:, 0] for key, x in bank.items()})["fmri", "spatial"]
    assert scaled.mean().abs() < 1e-4 and scaled.std(0).mean() == pytest.approx(1, abs=0.02)


def test_a_student_sees_its_domain_and_its_teacher_only(chapter):
    splits = study_of(chapter, seed=0, finetune_epochs=1)
    chapter.teachers = torch.full((2, 40), torch.nan)
    chapter.teachers[0, splits[0].train] = 2.0 * torch.from_numpy(chapter.y[splits[0].train]).float() - 1
    model = chapter.student(0, "spatial", 0.5)
    assert model.domains == ["spatial"] and all(p.isfinite().all() for p in model.parameters())
    seen = chapter.score(model, chapter.only(chapter.banks[0], D="spatial"), splits[0].test)
    assert np.isfinite(seen).all()
    chapter.teachers[:] = torch.nan  # without its teacher it learns from labels alone
    assert np.isnan(float(chapter.distillation(torch.zeros(2), chapter.teachers[0, :2], torch.ones(2))))


class Stub:
    """A model whose heads give what they are given."""

    domains = ("spatial", "temporal", "frequency")

    def project(self, e):
        return e, None


@pytest.mark.parametrize("every", [False, True])
def test_matching_ranks_by_the_trained_cosines(chapter, every):
    e = {key: torch.randn(30, 6) for key in KEYS}
    for M, D in KEYS:
        e[M, D] += e["fmri", "spatial"]  # something shared
    split = evaluate.Split(np.arange(10), np.arange(10, 30), 0, 0)
    hits = 0
    for i in range(10, 30):
        pairs = [(x, y) for x in Stub.domains for y in Stub.domains if every or x == y]
        total = [
            sum(torch.cosine_similarity(e["eeg", y][i], e["fmri", x][j], dim=0) for x, y in pairs)
            for j in range(10, 30)
        ]
        hits += int(np.argmax([float(t) for t in total]) == i - 10)
    assert chapter.matching(Stub(), e, split, every) == pytest.approx(hits / 20)
    assert hits > 3


def test_top1_counts_the_diagonal(chapter):
    assert chapter.top1(torch.eye(5)) == 1
    assert chapter.top1(torch.eye(4).flip(0)) == 0
    assert chapter.top1(torch.zeros(4, 4)) == pytest.approx(0.25), "all alike is no hit for everybody"


def test_ridge_finds_a_planted_link_and_nothing_else(chapter):
    rng = np.random.default_rng(0)
    split = evaluate.Split(np.arange(80), np.arange(80, 120), 0, 0)
    causes = rng.standard_normal((120, 6))
    fmri = causes @ rng.standard_normal((6, 300)) + 0.5 * rng.standard_normal((120, 300))
    eeg = causes @ rng.standard_normal((6, 50)) + 0.5 * rng.standard_normal((120, 50))
    assert chapter.ridge_retrieval(eeg, fmri, split) > 0.6
    assert chapter.ridge_retrieval(rng.standard_normal(eeg.shape), fmri, split) < 0.2
    dirty = fmri.copy()
    dirty[split.test[0]] *= 100  # a test person moves no other's rank by the fit
    hits = chapter.ridge_retrieval(eeg, dirty, split)
    assert abs(hits - chapter.ridge_retrieval(eeg, fmri, split)) < 0.2


def test_saliency_of_a_linear_model_is_weight_times_input(chapter):
    keys = [("fmri", "spatial"), ("eeg", "frequency")]
    x = {
        keys[0]: torch.randn(5, R, 3, requires_grad=True),
        keys[1]: torch.randn(5, 2, R, 3, requires_grad=True),
    }
    w = {key: torch.randn_like(v[0]) for key, v in x.items()}

    class Linear:
        def classify(self, e):
            return sum((e[key] * w[key]).flatten(1).sum(1) for key in keys)

    found = chapter.saliency(Linear(), x, x)
    for key, v in x.items():
        by_hand = (w[key] * v).sum(-1).abs().flatten(0, -2).mean(0)
        np.testing.assert_allclose(found[key], (by_hand / by_hand.sum()).detach(), rtol=1e-5)
        assert found[key].shape == (R,) and found[key].sum() == pytest.approx(1)


def test_a_study_judges_people_that_it_did_not_train_on(chapter):
    LOSS = dict(tau=0.2, alpha=0.8, all_pairs=True)
    study_of(chapter, seed=0, LOSS=LOSS, batch_size=16, rate=0.2, learning_rate=1e-3)
    chapter.logistic = evaluate.linear_probe("logistic")
    atlas = Atlas("test", np.array(["r"] * R), np.array(["n"] * R), CONTEXT["coords"].numpy())
    setting = dict(n=20, held=20, atlas=atlas, epochs=1)
    out = chapter.study(chapter.banks[0], chapter.y, **setting)
    assert set(out) == {"auc", "with_path_auc", "top1", "size"} and 0 <= out["top1"].value <= 1
    alone = chapter.study(chapter.banks[0], chapter.y, **setting, D="spatial", see="fmri")
    assert alone["size"] < out["size"]
    seen, build, pretrain = [], chapter.build, chapter.pretrain
    chapter.build = lambda bank, rows, **more: seen.extend(rows) or build(bank, rows, **more)
    chapter.pretrain = lambda m, b, pairs, **more: seen.extend(pairs[:, 0]) or pretrain(m, b, pairs, **more)
    try:
        chapter.study(chapter.banks[0], chapter.y, **setting, D="spatial")
        assert set(seen) == set(range(20)), "a study must learn from its first people alone"
        chapter.study(chapter.banks[0], chapter.y, **setting, D="spatial", transductive=True)
        assert set(seen) == set(range(40)), "the leak that the table shows is one"
    finally:
        chapter.build, chapter.pretrain = build, pretrain
    bare = chapter.study(chapter.banks[0], chapter.y, **setting | dict(epochs=0), size=dict(n_components=0))
    assert bare["auc"] == bare["with_path_auc"], "without a path both are the transformer's"


def test_fine_tuning_on_permuted_labels_is_at_chance(chapter):
    """What is trained with labels that mean nothing must not know the labels of others."""
    splits, found = study_of(chapter, S=60), []
    for i in range(6):
        y = np.random.default_rng(i).permutation(np.arange(60) % 2)
        models = [
            chapter.finetune(chapter.pretrained[s.fold], chapter.banks[0], s.train, y, p_drop=0.3, epochs=2)
            for s in splits
        ]
        score = [chapter.score(m, chapter.banks[0], s.test) for m, s in zip(models, splits, strict=True)]
        areas = [evaluate._ranked_auc(y[s.test], x) for s, x in zip(splits, score, strict=True)]
        found.append(np.mean(areas))
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found) / math.sqrt(6) + 0.03


def test_distillation(chapter):
    student, teacher = torch.randn(20, requires_grad=True), torch.randn(20)
    y = (torch.rand(20) > 0.5).float()
    hard = F.binary_cross_entropy_with_logits(student, y)
    torch.testing.assert_close(chapter.distillation(student, teacher, y, w=0.0), hard)
    ours = torch.autograd.grad(chapter.distillation(student, teacher, y, w=1.0, T=1.0), student)[0]
    p, q = torch.sigmoid(teacher), torch.sigmoid(student)
    printed = -(p * q.log() + (1 - p) * (1 - q).log()).mean()
    torch.testing.assert_close(ours, torch.autograd.grad(printed, student)[0], atol=1e-6, rtol=1e-5)
    twin = chapter.distillation(student, student.detach(), y, w=1.0)
    assert twin.abs() < 1e-6, "a student equal to its teacher has no soft loss"


def test_permuted_labels_are_at_chance(chapter):
    bank = make_bank(S=60)
    chapter.SIZE, chapter.device, chapter.n_segments_test = {}, torch.device("cpu"), 3
    model = chapter.build(bank, np.arange(60), d=8, n_heads=2, depth=1, d_head=16, n_components=4)
    x = chapter.flat(chapter.embed(model, bank))
    people = pd.DataFrame(dict(participant_id=[f"s{i}" for i in range(60)], site="a"))
    found = []
    for i in range(8):
        y = np.random.default_rng(i).permutation(np.arange(60) % 2)
        splits = evaluate.splits(people.assign(group=y.astype(str)), n_splits=3, n_repeats=1, seed=i)
        probe = evaluate.linear_probe("svm", 1.0)
        found.append(float(evaluate.auc(frozen.cross_validate([x] * 3, y, splits, probe), n_boot=10)))
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found) / math.sqrt(8) + 0.02


@pytest.mark.slow
def test_pretraining_finds_shared_factors(chapter):
    """Retrieval among unseen people rises well above chance when the modalities share factors."""
    S = 120
    u = torch.randn(S, 1, 5, 1, 1)
    maps = torch.randn(2, 5, R, R)
    shared = [(u * m).sum(2) for m in maps]
    bank = {
        (M, "spatial"): x + x.mT + torch.randn(S, 2, R, R)
        for M, x in zip(("fmri", "eeg"), shared, strict=True)
    }
    chapter.SIZE, chapter.device, rows = {}, torch.device("cpu"), np.arange(80)
    model = chapter.build(bank, rows, d=16, n_heads=2, depth=1, d_head=16, n_components=8)
    augment = chapter.Augmenter(**CONTEXT, rate=0.2)
    split = evaluate.Split(rows, np.arange(80, S), 0, 0)
    before = chapter.matching(model, chapter.embed(model, bank), split, False)
    setting = dict(augment=augment, objective=small_objective(chapter), epochs=8, batch_size=32, lr=3e-3)
    chapter.pretrain(model, bank, all_pairs(rows), **setting)
    after = chapter.matching(model, chapter.embed(model, bank), split, False)
    assert after > max(0.2, before + 0.1)


# ------------------------------------------------------------------------------------------------- bad input


def paired_arrays(n=4, R=6):
    rng = np.random.default_rng(0)
    people = pd.DataFrame(dict(participant_id=[f"sub-{i}" for i in range(n)], age=30.0, sex="F", site="a"))
    people["group"] = ["control", "patient"] * (n // 2)
    bold, eeg = rng.standard_normal((n, 2, R, 60)), rng.standard_normal((n, 2, R, 1000))
    return dict(bold=bold, eeg=eeg, participants=people, tr=2.0, sfreq=250.0, atlas=Atlas.unnamed(R))


@pytest.mark.parametrize("spoil, words", [
    (dict(eeg=lambda x: x[:-1]), "unpaired"),
    (dict(eeg=lambda x: x[:, :, :-1]), "region"),
    (dict(bold=lambda x: np.where(np.arange(60) == 7, np.nan, x)), "NaN"),
    (dict(eeg=lambda x: x * (np.arange(6)[:, None] != 2)), "flat"),
    (dict(sfreq=lambda x: [250.0, 250.0, 200.0, 250.0]), "sampling rate"),
])  # fmt: skip
def test_bad_pairs_are_refused(spoil, words):
    from helpers.data.cohort import Provenance
    from helpers.data.paired import PairedCohort

    arrays = paired_arrays()
    for key, change in spoil.items():
        arrays[key] = change(arrays[key])
    with pytest.raises(BookError, match=words):
        PairedCohort.validate(**arrays, provenance=Provenance("test", "made here", "none", "none"))
