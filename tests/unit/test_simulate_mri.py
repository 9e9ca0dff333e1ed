"""The MRI contrasts: equations, order of the tissues, slices, noise, errors."""

import numpy as np
import pytest

from helpers.errors import BookError
from helpers.simulate import mri


@pytest.fixture(scope="module")
def axial():
    return mri.slice_at(*mri.tissue_maps(), z=8.0)


def test_spin_echo_limits():
    tissue = mri.Tissue(t1=800.0, t2=80.0, pd=0.9)
    assert mri.spin_echo(tissue, tr=1e9, te=0.0) == pytest.approx(0.9)
    assert mri.spin_echo(tissue, tr=800.0, te=80.0) == pytest.approx(0.9 * (1 - np.exp(-1)) * np.exp(-1))


def test_inversion_recovery_nulls_at_the_null_time():
    for tissue in mri.TISSUES.values():
        ti = mri.null_time(tissue.t1, 9000.0)
        assert mri.inversion_recovery(tissue, tr=9000.0, te=100.0, ti=ti) == pytest.approx(0.0, abs=1e-12)


def test_order_of_the_tissues_in_each_contrast():
    def order(name):
        return sorted(mri.TISSUES, key=lambda t: mri.signal(mri.SEQUENCES[name], mri.TISSUES[t]))

    assert order("T1w") == ["CSF", "GM", "WM"]
    assert order("T2w") == ["WM", "GM", "CSF"]
    assert order("PD") == ["WM", "GM", "CSF"]
    assert order("FLAIR") == ["CSF", "WM", "GM"]


def test_tissue_maps_are_fractions():
    maps, affine = mri.tissue_maps()
    assert maps.shape == (3, 197, 233, 189) and affine.shape == (4, 4)
    assert maps.min() >= 0.0 and maps.sum(axis=0).max() <= 1.0 + 1e-5
    litres = maps.sum(axis=(1, 2, 3)) * abs(np.linalg.det(affine[:3, :3])) / 1e6
    assert 0.1 < litres[0] < 0.6 and 0.5 < litres[1] < 1.4 and 0.4 < litres[2] < 1.0


def test_slice_is_upright_and_centred(axial):
    assert axial.shape == (3, 216, 180)
    brain = axial.sum(axis=0) > 0.5
    rows, columns = np.nonzero(brain)
    assert abs(rows.mean() - 107.5) < 8 and abs(columns.mean() - 89.5) < 3
    mirrored = axial[:, :, ::-1]
    assert np.corrcoef(axial.ravel(), mirrored.ravel())[0, 1] > 0.9  # the template is symmetric


def test_contrasts_are_the_sum_over_tissues(axial):
    images = mri.contrasts(axial)
    naive = np.zeros_like(images)
    for m, sequence in enumerate(mri.SEQUENCES.values()):
        for k, tissue in enumerate(mri.TISSUES.values()):
            naive[m] += axial[k] * mri.signal(sequence, tissue)
    np.testing.assert_allclose(images, naive, rtol=1e-5, atol=1e-7)
    assert images.dtype == np.float32


def test_a_new_tissue_is_one_more_row(axial):
    lesion = np.zeros_like(axial[:1])
    lesion[0, 100:110, 60:70] = 1.0
    tissues = {**mri.TISSUES, "oedema": mri.Tissue(t1=1200.0, t2=130.0, pd=0.9)}
    images = mri.contrasts(np.concatenate([axial * (1 - lesion), lesion]), tissues=tissues)
    assert images[:, 105, 65] == pytest.approx(
        [mri.signal(s, tissues["oedema"]) for s in mri.SEQUENCES.values()], rel=1e-5
    )


def test_noise_is_rician_and_seeded(axial):
    one, two = (mri.contrasts(axial, noise=0.02, rng=np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    scale = 0.02 * max(mri.signal(mri.SEQUENCES["T1w"], t) for t in mri.TISSUES.values())
    outside = one[0, :15]
    assert outside.min() >= 0 and outside.mean() == pytest.approx(
        scale * np.sqrt(np.pi / 2), rel=0.05
    )  # Rayleigh


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: mri.Tissue(t1=0.0, t2=80.0, pd=1.0), "positive"),
        (lambda a: mri.Sequence(tr=500.0, te=10.0, ti=600.0), "0 < ti < tr"),
        (lambda a: mri.contrasts(a[:2]), "2 tissue maps for 3"),
        (lambda a: mri.contrasts(a, noise=0.1), "rng"),
        (lambda a: mri.contrasts(a, noise=-0.1), ">= 0"),
        (lambda a: mri.slice_at(*mri.tissue_maps(), z=500.0), "outside"),
    ],
)
def test_errors_are_one_clear_line(axial, call, message):
    with pytest.raises(BookError) as error:
        call(axial)
    assert message in str(error.value) and "\n" not in str(error.value)
