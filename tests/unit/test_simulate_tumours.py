"""The simulated tumours: determinism, anatomy, physics, labels, which contrast shows what, errors."""

import itertools
import time

import numpy as np
import pytest
from scipy import ndimage

from helpers.errors import BookError
from helpers.simulate import mri, tumours

SMALL = {"size": 64, "slices": 3}


@pytest.fixture(scope="module")
def cohort():
    return tumours.cohort(24, seed=1, contrasts=tumours.CONTRASTS, **SMALL)


@pytest.fixture(scope="module")
def people():
    return [tumours.subject(i, seed=1, contrasts=tumours.CONTRASTS, **SMALL) for i in range(24)]


def test_shapes_and_ranges(cohort):
    assert cohort.images.shape == (72, 5, 64, 64) and cohort.images.dtype == np.float32
    assert cohort.n_subjects == 24 and cohort.spacing == (3.0, 3.0)
    assert cohort.images.min() >= 0 and cohort.images.max() < 8
    assert (cohort.images[np.broadcast_to(~cohort.mask[:, None], cohort.images.shape)] == 0).all()
    assert set(np.unique(cohort.labels)) == {0, 1, 2, 4}
    assert not cohort.labels[~cohort.mask].any()
    assert cohort.available.all()


def test_the_same_seed_gives_the_same_person_alone_or_in_a_cohort(cohort, people):
    again = tumours.cohort(24, seed=1, contrasts=tumours.CONTRASTS, **SMALL)
    assert again.hash == cohort.hash
    np.testing.assert_array_equal(people[7].images.swapaxes(0, 1), cohort.of(["sim-0008"]).images)
    late = tumours.cohort(2, seed=1, first=7, contrasts=tumours.CONTRASTS, **SMALL)
    np.testing.assert_array_equal(late.images[:3], people[7].images.swapaxes(0, 1))
    assert tumours.cohort(2, seed=2, **SMALL).hash != tumours.cohort(2, seed=1, **SMALL).hash


def test_no_two_people_are_alike(people):
    assert len({p.tumour.radius for p in people}) == len({tuple(p.tumour.centre) for p in people}) == 24
    for a, b in itertools.pairwise(people):
        both = a.mask & b.mask
        assert (a.mask != b.mask).mean() > 0.005  # another head
        assert np.corrcoef(a.images[3][both], b.images[3][both])[0, 1] < 0.8  # other sulci, another tumour
        noise = [p.images[1] - ndimage.gaussian_filter(p.images[1], (0, 1, 1)) for p in (a, b)]
        assert abs(np.corrcoef(noise[0][both], noise[1][both])[0, 1]) < 0.5


def test_contrasts_do_not_depend_on_which_others_are_drawn(people):
    few = tumours.subject(3, seed=1, contrasts=("T2w", "FLAIR"), **SMALL)
    for name in ("T2w", "FLAIR"):
        m, k = few_index = (("T2w", "FLAIR").index(name), tumours.CONTRASTS.index(name))
        np.testing.assert_array_equal(few.images[m], people[3].images[k], err_msg=str(few_index))


def test_one_person_at_two_resolutions():
    coarse = tumours.subject(4, size=48, slices=1, noise=0.0)
    fine = tumours.subject(4, size=96, slices=1, noise=0.0)
    pooled = fine.images.reshape(4, 1, 48, 2, 48, 2).mean(axis=(3, 5))
    for m in range(4):
        assert np.corrcoef(pooled[m].ravel(), coarse.images[m].ravel())[0, 1] > 0.95
    assert fine.tumour.radius == coarse.tumour.radius


def test_settings_change_only_what_they_concern():
    base = tumours.subject(5, **SMALL)
    quiet = tumours.subject(5, noise=0.0, **SMALL)
    np.testing.assert_array_equal(base.labels, quiet.labels)
    np.testing.assert_array_equal(base.fractions, quiet.fractions)
    sd = (base.images - quiet.images)[:, base.mask].std()
    assert 0.01 < sd < 0.035
    flat = tumours.subject(5, bias=0.0, noise=0.0, **SMALL)
    assert (flat.bias == 1).all()
    np.testing.assert_allclose(flat.images * quiet.bias, quiet.images, rtol=1e-4, atol=1e-5)


def test_fractions_are_shares_of_the_brain(people):
    for p in people[:8]:
        assert p.fractions.min() >= -1e-6
        total = p.fractions.sum(axis=0)
        assert total.max() < 1.001 and total[p.mask].min() > 0.49 and total[p.mask].mean() > 0.97


def test_the_deformation_never_folds():
    """det(1 + du/dq) > 0 on a grid of 3 mm, twenty people."""
    s = tumours.Settings(size=64, depth=20)
    for index in range(20):
        tumour = tumours._draw_tumour(np.random.default_rng(index))
        axes = tumours._axes(s, tumour, np.random.default_rng(0))
        _, u = tumours._anatomy(np.random.default_rng([0, index]), axes, tumour, s)
        z, y, x = axes
        steps = (x[1] - x[0], y[1] - y[0], z[1] - z[0])
        J = np.stack([np.stack(np.gradient(c, steps[2], steps[1], steps[0])[::-1]) for c in u])
        J = np.moveaxis(J, (0, 1), (-2, -1)) + np.eye(3)
        assert np.linalg.det(J).min() > 0.02


def test_smooth_fields_have_unit_variance_and_the_stated_width():
    axes = (np.linspace(-20, 40, 40), np.linspace(-100, 60, 60), np.linspace(-80, 80, 60))
    F = tumours.smooth_fields(np.random.default_rng(0), axes, width=5.0, n=6)
    assert F.shape == (6, 40, 60, 60) and abs(F.std() - 1) < 0.05 and abs(F.mean()) < 0.1
    shift = 4  # columns are 2.71 mm apart; correlation exp(-d^2 / 4 width^2)
    d = shift * (axes[2][1] - axes[2][0])
    r = np.corrcoef(F[..., :-shift].ravel(), F[..., shift:].ravel())[0, 1]
    assert r == pytest.approx(np.exp(-(d**2) / (4 * 5.0**2)), abs=0.06)


def test_image_is_the_sum_over_tissues():
    """Against the equations of helpers.simulate.mri, one tissue at a time, without texture."""
    p = tumours.subject(2, noise=0.0, bias=0.0, texture=0.0, jitter=0.0, **SMALL)
    tissues = dict(tumours.TISSUES)
    core = {
        k: getattr(tissues["core"], k) ** (1 - p.tumour.fluid) * getattr(tumours.FLUID, k) ** p.tumour.fluid
        for k in ("t1", "t2", "pd")
    }
    tissues["core"] = mri.Tissue(**core)
    plain = {k: tumours.SEQUENCES[k] for k in ("FLAIR", "T1w", "T2w")}
    expected = mri.contrasts(p.fractions, tissues=tissues, sequences=plain)
    inside = p.fractions.sum(axis=0) > 0.99
    for name, image in zip(plain, expected, strict=True):
        white = mri.signal(plain[name], tissues["WM"])
        found = p.images[tumours.FOUR.index(name)]
        np.testing.assert_allclose(found[inside], image[inside] / white, rtol=1e-4)


def test_gadolinium_shortens_t1():
    pulse, tissue = tumours.SEQUENCES["T1ce"], tumours.TISSUES["enhancing"]
    t1 = 1 / (1 / tissue.t1 + 4.5 * 0.4 / 1000)
    expected = tissue.pd * (1 - np.exp(-pulse.tr / t1)) * np.exp(-pulse.te / tissue.t2)
    assert tumours.tissue_signal(pulse, tissue, 0.4) == pytest.approx(expected)
    assert tumours.tissue_signal(pulse, tissue, 0.0) == pytest.approx(mri.signal(pulse, tissue))


def test_sensitivities_are_derivatives():
    pulse, tissue = tumours.SEQUENCES["FLAIR"], tumours.TISSUES["oedema"]
    _, by_t2, by_pd = tumours._sensitivity(pulse, tissue, 0.0)
    S = mri.signal(pulse, tissue)
    assert by_pd == pytest.approx(S, rel=1e-3) and by_t2 == pytest.approx(S * pulse.te / tissue.t2, rel=1e-3)


def test_labels_follow_the_fractions(people):
    names = people[0].tissues
    oedema, enhancing, core = (names.index(k) for k in ("oedema", "enhancing", "core"))
    for p in people:
        assert (p.fractions[oedema][p.labels == 2] > 0.2).all()
        assert (p.fractions[enhancing][p.labels == 4] >= p.fractions[core][p.labels == 4]).all()
        assert (p.labels == 4).any() <= p.tumour.enhancing
        assert not (p.labels[p.fractions[0] > 0.7]).any()  # nothing grows into CSF


def test_enhancement_is_the_only_difference_between_t1w_and_t1ce(people):
    """Before and after the contrast agent, without noise and bias: only where gadolinium goes."""
    p = tumours.subject(0, seed=1, noise=0.0, bias=0.0, texture=0.0, contrasts=("T1w", "T1ce"), **SMALL)
    before, after = p.images
    pure = p.fractions[p.tissues.index("WM")] > 0.98
    np.testing.assert_allclose(before[pure], after[pure], rtol=0.02)
    assert p.tumour.enhancing
    rim = p.fractions[p.tissues.index("enhancing")] > 0.8
    assert (after[rim] / before[rim]).min() > 1.1


def test_which_contrast_shows_what(people):
    """Medians over people, pure voxels, bias removed: the order that real tumour slices have."""
    table = {}
    for p in people:
        white = p.fractions[p.tissues.index("WM")] > 0.9
        for k, name in enumerate(p.tissues):
            pure = p.fractions[k] > 0.8
            if pure.sum() < 8:
                continue
            for m, contrast in enumerate(tumours.CONTRASTS):
                x = p.images[m] / p.bias[m]
                table.setdefault((contrast, name), []).append(np.median(x[pure]) / np.median(x[white]))
    ratio = {key: np.median(values) for key, values in table.items()}
    assert 1.3 < ratio["FLAIR", "oedema"] < 1.8 and 1.3 < ratio["FLAIR", "enhancing"] < 1.9
    assert ratio["FLAIR", "CSF"] < 0.45 and 2.3 < ratio["T2w", "CSF"]
    assert 1.6 < ratio["T2w", "oedema"] < 2.0 < ratio["T2w", "core"]
    assert 1.15 < ratio["T1ce", "enhancing"] < 1.7 and ratio["T1w", "enhancing"] < 0.95
    assert ratio["T1ce", "core"] < 0.85 and ratio["T1ce", "oedema"] < 0.95
    assert 0.8 < ratio["T1w", "GM"] < 0.9 and 1.15 < ratio["T2w", "GM"] < 1.35
    # the rim is told from oedema by T1ce and by nothing else
    for contrast in ("FLAIR", "T1w", "T2w", "PD"):
        assert abs(ratio[contrast, "enhancing"] - ratio[contrast, "oedema"]) < 0.25


def test_most_slices_show_the_tumour_and_a_fifth_of_people_do_not_enhance(cohort):
    there = cohort.targets().any(axis=(2, 3))
    assert there[:, 2].mean() > 0.9 and 0.4 < there[:, 0].mean() < 0.9
    many = [tumours._draw_tumour(np.random.default_rng(i)).enhancing for i in range(300)]
    assert 0.72 < np.mean(many) < 0.88


def test_no_tumour_no_label():
    healthy = tumours.cohort(6, tumours=0.0, **SMALL)
    assert not healthy.labels.any() and not healthy.participants["tumour"].any()
    some = tumours.cohort(30, tumours=0.5, size=16, slices=1).participants["tumour"].sum()
    assert 8 <= some <= 22


def test_a_surprise_shows_in_one_contrast_only():
    plain = tumours.cohort(8, noise=0.0, contrasts=tumours.CONTRASTS, **SMALL)
    odd = tumours.cohort(8, noise=0.0, surprises=4.0, contrasts=tumours.CONTRASTS, **SMALL)
    where = odd.extras["surprise"]
    assert where.any() and not plain.extras["surprise"].any()
    np.testing.assert_array_equal(plain.labels, odd.labels)
    for m in range(5):
        here = where == m + 1
        change = np.abs(odd.images / np.maximum(plain.images, 1e-6) - 1)[:, m]
        assert not here.any() or np.median(change[here]) > 0.2
        elsewhere = (where != 0) & (where != m + 1)
        assert np.median(change[elsewhere]) == 0
    assert not where[odd.labels > 0].any()


def test_small_volumes():
    v = tumours.cohort(2, size=32, depth=24, view=160.0)
    assert v.images.shape == (2, 4, 24, 32, 32) and v.spacing == (5.0, 5.0, 5.0)
    assert v.targets()[:, 2].any(axis=(1, 2, 3)).all() and len(v.participants) == 2
    middle = tumours.subject(0, size=32, depth=24, view=160.0)
    assert np.diff(middle.heights) == pytest.approx(np.full(23, 5.0))


def test_200_people_take_less_than_a_minute():
    tumours.subject(0)
    begin = time.process_time()
    tumours.cohort(6, contrasts=tumours.CONTRASTS)
    assert (time.process_time() - begin) / 6 * 200 < 60


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tumours.cohort(0), "n_subjects is 0"),
        (lambda: tumours.cohort(2, seed=-1), "seed is -1"),
        (lambda: tumours.cohort(2, slice=3), "unknown simulation setting slice"),
        (lambda: tumours.cohort(2, contrasts=("T1w", "T9")), "unknown or repeated contrast"),
        (lambda: tumours.cohort(2, contrasts=("T1w", "T1w")), "unknown or repeated contrast"),
        (lambda: tumours.cohort(2, size=7), "size is 7"),
        (lambda: tumours.cohort(2, noise=-0.1), "noise is -0.1"),
        (lambda: tumours.cohort(2, tumours=1.5), "tumours is 1.5"),
        (lambda: tumours.subject(-1), "index is -1"),
    ],
)
def test_errors_are_one_clear_line(call, says):
    with pytest.raises(BookError) as error:
        call()
    assert says in str(error.value) and "\n" not in str(error.value)
