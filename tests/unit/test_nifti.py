"""Loaders of folders that readers bring (BraTS, IXI), on small NIfTI files made here."""

import gzip

import nibabel
import numpy as np
import pytest

from helpers.data import brats, ixi, nifti, open_ms
from helpers.errors import BookError, MissingData

SHAPE = (24, 30, 12)
RAS = np.diag([2.0, 2.0, 2.0, 1.0])


def save(path, values, affine=RAS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def brain(seed=0, shape=SHAPE):
    x = np.zeros(shape, dtype=np.float32)
    x[4:-4, 4:-4, 2:-2] = np.random.default_rng(seed).uniform(1, 2, [n - m for n, m in zip(shape, (8, 8, 4))])  # noqa: B905
    return x


def tumour(kinds=(1, 2, 4)):
    y = np.zeros(SHAPE, dtype=np.uint8)
    y[8:16, 8:20, 4:9] = kinds[1]
    y[10:14, 10:18, 5:8] = kinds[2]
    y[11:13, 12:16, 6] = kinds[0]
    return y


@pytest.fixture
def old(tmp_path):
    """Two cases of 2018 in two folders, one without labels."""
    for k, (where, name) in enumerate((("HGG", "Case_1"), ("LGG", "Case_2"), ("HGG", "Case_3"))):
        for j, kind in enumerate(("flair", "t1", "t1ce", "t2")):
            save(tmp_path / where / name / f"{name}_{kind}.nii.gz", brain(10 * k + j))
        if name != "Case_3":
            save(tmp_path / where / name / f"{name}_seg.nii.gz", tumour())
    return tmp_path


def test_brats_2018(old):
    v = brats.load(old, slices=3, size=32)
    assert v.images.shape == (6, 4, 32, 32) and v.people == ["Case_1", "Case_2"]
    assert v.spacing == (2.0, 2.0) and set(np.unique(v.labels)) == {0, 1, 2, 4}
    assert v.participants["slice"].tolist() == [4, 6, 8] * 2
    found = nibabel.load(old / "HGG/Case_1/Case_1_t1ce.nii.gz").get_fdata()[..., 6]
    np.testing.assert_allclose(v.contrast("T1ce")[1, 1:31, 4:28], found.T[::-1], rtol=1e-6)
    marks = tumour()[..., 6].T[::-1]
    np.testing.assert_array_equal(v.labels[1, 1:31, 4:28], marks)
    assert len(brats.cases(old, labelled=False)) == 3
    assert not brats.load(old, labelled=False, slices=2, size=16).of(["Case_3"]).labels.any()


def test_brats_volumes_that_stay_on_disk(old, tmp_path):
    size, cache = (12, 24, 24), tmp_path / "cache"
    whole = brats.load_3d(old, size=size).normalise()
    mapped = brats.mapped(brats.cases(old), cache, size=size)
    assert isinstance(mapped.images, np.memmap) and mapped.scaling == "zscore"
    assert mapped.people == whole.people and mapped.hash == whole.hash
    for name in ("images", "labels", "mask", "available"):
        np.testing.assert_array_equal(getattr(mapped, name), getattr(whole, name))
    files = {p: p.stat().st_mtime_ns for p in cache.iterdir()}
    assert brats.mapped(brats.cases(old), cache, size=size).hash == whole.hash
    assert {p: p.stat().st_mtime_ns for p in cache.iterdir()} == files, "read once"


def test_brats_2023(tmp_path):
    for j, kind in enumerate(("t2f", "t1n", "t1c", "t2w")):
        save(tmp_path / "BraTS-GLI-00000-000" / f"BraTS-GLI-00000-000-{kind}.nii.gz", brain(j))
    save(tmp_path / "BraTS-GLI-00000-000" / "BraTS-GLI-00000-000-seg.nii.gz", tumour((1, 2, 3)))
    v = brats.load(tmp_path, slices=5, size=32)
    assert set(np.unique(v.labels)) == {0, 1, 2, 4}
    np.testing.assert_array_equal(np.unique(v.targets()[:, 0]), [False, True])


def test_brats_volumes(old):
    v = brats.load_3d(old, size=(8, 24, 16))
    assert v.images.shape == (2, 4, 8, 24, 16) and v.spacing == (2.0, 2.0, 2.0)
    assert v.mask.all(axis=(1, 2, 3)).sum() == 0 and v.mask[0, :, 12, 8].all()
    one = next(brats.stream(brats.cases(old), size=(8, 24, 16)))
    np.testing.assert_array_equal(one.images[0], v.images[0])
    half = brats.load_3d(old, size=(4, 12, 8), factor=2)
    assert half.spacing == (4.0, 4.0, 4.0) and (half.labels > 0).any()


def test_the_order_of_the_axes_in_the_file_does_not_matter(tmp_path):
    x = brain()
    save(tmp_path / "a.nii.gz", x)
    flipped = RAS.copy()
    flipped[0] = [-2, 0, 0, 2 * (SHAPE[0] - 1)]
    save(tmp_path / "b.nii.gz", x[::-1].copy(), flipped)
    swapped = RAS[:, [1, 0, 2, 3]]
    save(tmp_path / "c.nii.gz", x.swapaxes(0, 1).copy(), swapped)
    for name in "bc":
        values, affine = nifti.read(tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(values, x)
        np.testing.assert_allclose(affine, RAS)


def test_shrinking():
    x = np.arange(4 * 6 * 4, dtype=np.float32).reshape(4, 6, 4)
    small = nifti.shrink(x, 2)
    assert small.shape == (2, 3, 2) and small[0, 0, 0] == x[:2, :2, :2].mean()
    labels = np.zeros((2, 2, 4), dtype=np.uint8)
    labels[..., :2] = 4
    labels[0, 0, 0] = 2
    assert nifti.shrink_labels(labels, 2).tolist() == [[[4, 0]]]
    assert nifti.fit(np.ones((3, 5)), (5, 3)).sum() == 9
    assert nifti.spread(np.arange(10), 3).tolist() == [0, 4, 9] and len(nifti.spread(np.arange(2), 5)) == 2


def ixi_person(folder, name, *, t1_affine=RAS, t1_shape=SHAPE, mask=False):
    for kind in ("T2", "PD"):
        save(folder / f"IXI-{kind}" / f"{name}-{kind}.nii.gz", brain(1))
    save(folder / "IXI-T1" / f"{name}-T1.nii.gz", brain(2, t1_shape), t1_affine)
    if mask:
        save(folder / "IXI-MASK" / f"{name}-MASK.nii.gz", (brain(1) > 0).astype(np.uint8))


def test_ixi(tmp_path):
    ixi_person(tmp_path, "IXI002-Guys-0828", mask=True)
    ixi_person(tmp_path, "IXI012-HH-1211", mask=True)
    save(tmp_path / "IXI-T1" / "IXI099-IOP-0001-T1.nii.gz", brain())  # has no T2 and PD
    v = ixi.load(tmp_path, slices=3, size=32)
    assert v.contrasts == ("T1w", "T2w", "PD") and v.images.shape == (6, 3, 32, 32)
    assert v.people == ["IXI002-Guys-0828", "IXI012-HH-1211"]
    assert v.participants["site"].tolist()[::3] == ["Guy's Hospital", "Hammersmith Hospital"]
    assert not v.labels.any() and v.targets().shape == (6, 0, 32, 32) and v.summary().empty
    assert "mask: brain" in v.provenance.notes
    two = ixi.load(tmp_path, contrasts=("T2w", "PD"), slices=2, size=16)
    assert two.contrasts == ("T2w", "PD")


def test_ixi_t1_lies_on_another_grid(tmp_path):
    affine = np.diag([1.0, 2.0, 2.0, 1.0])
    ixi_person(tmp_path, "IXI002-Guys-0828", t1_affine=affine, t1_shape=(48, 30, 12))
    with pytest.raises(BookError, match="T1w has shape"):
        ixi.load(tmp_path, size=32)
    v = ixi.load(tmp_path, size=32, align=True)
    inside = v.mask[:, 10:20, 10:20]
    assert (v.contrast("T1w")[:, 10:20, 10:20][inside] > 0.9).all()
    assert "head, not brain" in v.provenance.notes


def truncate(folder):
    path = folder / "HGG/Case_1/Case_1_t2.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])


def truncate_plain(folder):
    path = folder / "HGG/Case_1/Case_1_t2.nii.gz"
    plain = path.with_suffix("")
    plain.write_bytes(gzip.decompress(path.read_bytes())[:-400])
    path.unlink()


def no_nifti(folder):
    (folder / "HGG/Case_1/Case_1_t2.nii.gz").write_bytes(b"not an image at all")


def other_shape(folder):
    save(folder / "HGG/Case_1/Case_1_t1.nii.gz", brain()[:-1])


def other_affine(folder):
    moved = RAS.copy()
    moved[0, 3] = 3.0
    save(folder / "HGG/Case_1/Case_1_t1.nii.gz", brain(), moved)


def four_d(folder):
    save(folder / "HGG/Case_1/Case_1_t1.nii.gz", np.stack([brain(), brain()], axis=3))


def strange_label(folder):
    save(folder / "HGG/Case_1/Case_1_seg.nii.gz", tumour((7, 2, 4)))


def half_label(folder):
    save(folder / "HGG/Case_1/Case_1_seg.nii.gz", tumour().astype(np.float32) / 2)


def no_contrast(folder):
    (folder / "HGG/Case_1/Case_1_t1ce.nii.gz").unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (truncate, "Case_1_t2.nii.gz is cut short or damaged"),
        (truncate_plain, "Case_1_t2.nii is cut short or damaged"),
        (no_nifti, "Case_1_t2.nii.gz"),
        (other_shape, "Case_1: T1w has shape (23, 30, 12), FLAIR (24, 30, 12)"),
        (other_affine, "Case_1: the affines of T1w and FLAIR differ (by 3)"),
        (four_d, "has shape (24, 30, 12, 2): expected one 3-D image"),
        (strange_label, "labels hold 7 in Case_1 slice"),
        (half_label, "labels are not whole numbers"),
        (no_contrast, "Case_1 lacks T1ce"),
    ],
)
def test_bad_files_are_refused(old, spoil, says):
    spoil(old)
    with pytest.raises(BookError) as error:
        brats.load(old, slices=5, size=32)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda f: brats.load(f / "nowhere"), "no such folder"),
        (lambda f: brats.load(f), "no BraTS case with labels"),
        (lambda f: ixi.load(f), "lacks the folder IXI-T1, IXI-T2, IXI-PD"),
        (lambda f: nifti.read(f / "no.nii.gz"), "no such file"),
    ],
)
def test_empty_folders(tmp_path, call, says):
    with pytest.raises(MissingData) as error:
        call(tmp_path)
    assert says in str(error.value)


def test_bad_numbers(old):
    with pytest.raises(BookError, match="n_subjects is 5"):
        brats.load(old, 5)
    with pytest.raises(BookError, match="unknown contrast 'T9'"):
        ixi.people(old, ("T9",))
    with pytest.raises(BookError, match="31 patients asked"):
        open_ms.load(31)
    with pytest.raises(BookError, match="unknown patient"):
        open_ms.load(["patient99"])


def test_the_list_of_open_ms():
    assert open_ms.patients() == ["patient07", "patient19", "patient26"]
    assert len(open_ms.patients(checked=False)) == 30
    table = open_ms._table()
    assert len(table) == 150 and table["git_blob_sha1"].str.fullmatch("[0-9a-f]{40}").all()


def test_git_blob_id(tmp_path):
    (tmp_path / "x").write_bytes(b"hello\n")
    assert open_ms.git_blob_sha1(tmp_path / "x") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_open_ms_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for patient in ("patient07", "patient01"):
        with pytest.raises(MissingData) as error:
            open_ms.load([patient])
        assert "embedded needs no download" in str(error.value) and not list(tmp_path.rglob("*.part"))
    table = open_ms._table()
    row = next(r for r in table.itertuples() if r.patient == "patient01")
    path = tmp_path / "open_ms" / "patient01" / open_ms.FILES[row.image]
    path.write_bytes(b"half")
    with pytest.raises(BookError, match="damaged, not used"):
        open_ms._fetch(row)
    assert path.with_name(path.name + ".corrupt").is_file()
