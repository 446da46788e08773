"""Data sets: order, labels, hashes, and every bad input."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frictionstore.errors import DatasetError
from frictionstore.extract.data.base import Dataset, DatasetOptions, Part
from frictionstore.extract.data.choose import open_dataset, unreadable
from frictionstore.extract.data.noise import KIND_NAMES, indexed_noise_image, noise_image


def opened(name: str, said: list[str] | None = None, **options: object) -> Dataset:
    report = (said if said is not None else []).append
    return open_dataset(name, DatasetOptions(**options), report)  # type: ignore[arg-type]


def save(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for place, (label, name) in enumerate(
        [("dog", "b.png"), ("dog", "a.jpg"), ("cat", "z.gif"), ("cat", "deep/x.bmp")]
    ):
        save(root / label / name, place)
    return root


# ---- bundled ------------------------------------------------------------------------------------


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    theirs, ours = load_digits(), opened("digits")
    assert len(ours.ids) == 1797
    np.testing.assert_array_equal(ours.labels, theirs.target)
    assert ours.class_names == [str(name) for name in theirs.target_names]
    grey = np.rint(theirs.images[17] * 255 / 16).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(ours.load(17, 8), np.broadcast_to(grey, (3, 8, 8)))
    assert ours.load(0, 64).shape == (3, 64, 64)


def test_photos_are_the_whole_crops_of_both_photographs() -> None:
    from sklearn.datasets import load_sample_images

    ours = opened("photos")
    photo = load_sample_images().images[1].astype(np.float32) / np.float32(255)
    assert len(ours.ids) == 120
    place = ours.ids.index("flower/row2-col3")
    np.testing.assert_array_equal(ours.load(place, 64), photo[128:192, 192:256].transpose(2, 0, 1))
    assert ours.class_names[ours.labels[place]] == "flower"


def test_noise_is_seeded_image_by_image() -> None:
    long, short = opened("noise", count=500, seed=3), opened("noise", count=20, seed=3)
    np.testing.assert_array_equal(long.load(17, 32), short.load(17, 32))
    assert not np.array_equal(long.load(17, 32), opened("noise", seed=4).load(17, 32))
    assert long.ids[17] == "uniform-17"
    assert long.class_names[long.labels[17]] == "uniform"
    assert long.describe()["content_sha256"] == short.describe()["content_sha256"]
    assert long.describe() != opened("noise", count=500, seed=4).describe()


@pytest.mark.parametrize("kind", range(16), ids=KIND_NAMES)
def test_every_kind_of_noise_is_finite_bounded_and_not_constant(kind: int) -> None:
    image = noise_image(kind, 64, np.random.default_rng(kind))
    assert image.shape == (3, 64, 64)
    assert image.dtype == np.float32
    assert np.abs(image).max() <= 4
    assert image.std() > 0.02


def test_noise_spectra() -> None:
    """Pink noise has power 1/f, brown noise 1/f^2: the slope of log power over log frequency."""
    slopes = {}
    for name in ("gaussian", "pink", "brown"):
        kind = KIND_NAMES.index(name)
        power = np.zeros((64, 64))
        for seed in range(20):
            image = noise_image(kind, 64, np.random.default_rng(seed)).astype(np.float64)
            power += (np.abs(np.fft.fft2(image)) ** 2).sum(axis=0)
        f = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None, :])
        band = (f > 0.05) & (f < 0.4)
        slopes[name] = np.polyfit(np.log(f[band]), np.log(power[band]), 1)[0]
    assert slopes["gaussian"] == pytest.approx(0, abs=0.1)
    assert slopes["pink"] == pytest.approx(-1, abs=0.15)
    assert slopes["brown"] == pytest.approx(-2, abs=0.2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"split": "test"}, "data set digits has no --split"),
        ("photos", {"count": 5}, "data set photos has no --count"),
        ("noise", {"split": "train"}, "data set noise has no --split"),
        ("cifar10", {"seed": 1}, "data set CIFAR10 has no --seed"),
        ("nosuchset", {}, "unknown data set 'nosuchset'"),
        ("FakeData", {}, "unknown data set 'FakeData'"),
        ("cifar10", {"split": "valid"}, "CIFAR10 has no split 'valid': choose train or test"),
        ("cifar10", {}, "cannot be opened in .*: let torchvision fetch it with --download"),
        ("SBU", {}, "cannot be opened|does not give"),
    ],
)
def test_options_and_names_that_do_not_fit(
    tmp_path: Path, name: str, options: dict, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        opened(name, root=tmp_path, **options)


# ---- folders ------------------------------------------------------------------------------------


def test_folder_with_classes(folder: Path) -> None:
    ours = opened(f"folder:{folder}")
    assert ours.ids == ["cat/deep/x.bmp", "cat/z.gif", "dog/a.jpg", "dog/b.png"]
    assert ours.class_names == ["cat", "dog"]
    assert ours.labels.tolist() == [0, 0, 1, 1]
    assert ours.load(3, 16).shape == (3, 16, 16)


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        save(tmp_path / "flat" / name, 0)
    ours = opened(f"folder:{tmp_path / 'flat'}")
    assert ours.ids == ["a.png", "b.png"]
    assert ours.labels.tolist() == [-1, -1]
    assert ours.class_names == []


def test_other_files_are_ignored_and_counted(folder: Path) -> None:
    (folder / "readme.txt").write_text("hello")
    (folder / "cat" / "notes.md").write_text("hello")
    (folder / "cat" / ".hidden.png").write_text("hello")
    said: list[str] = []
    assert len(opened(f"folder:{folder}", said).ids) == 4
    assert said == [f"folder:{folder}: 2 files that are not images were ignored"]


def test_the_hash_sees_content_names_and_classes_and_not_the_place(folder: Path) -> None:
    def hashed() -> str:
        return opened(f"folder:{folder}").describe()["content_sha256"]

    first = hashed()
    os.utime(folder / "cat/z.gif", (0, 0))
    assert hashed() == first
    moved = folder.rename(folder.parent / "moved")
    assert opened(f"folder:{moved}").describe()["content_sha256"] == first
    moved.rename(folder)
    (folder / "dog/b.png").rename(folder / "dog/c.png")
    renamed = hashed()
    assert renamed != first
    save(folder / "dog/c.png", 99)
    assert hashed() != renamed
    (folder / "dog").rename(folder / "hound")
    assert hashed() not in (first, renamed)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: None, "does not exist: name a folder with images"),
        (lambda p: p.write_text("x"), "is not a folder"),
        (lambda p: p.mkdir(), "has no images: expected files like .png"),
        (lambda p: (p / "cat").mkdir(parents=True), "has no images"),
        (lambda p: (save(p / "a.png", 0), save(p / "cat/b.png", 0)), "both directly .* and in"),
        (lambda p: (save(p / "cat/a.png", 0), (p / "dog").mkdir()), r"without images \(dog\)"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, prepare: object, message: str) -> None:
    prepare(tmp_path / "set")  # type: ignore[operator]
    with pytest.raises(DatasetError, match=message):
        opened(f"folder:{tmp_path / 'set'}")


def test_unreadable_images_are_named(folder: Path) -> None:
    (folder / "cat/z.gif").write_bytes(b"GIF89a but no more")
    whole = (folder / "dog/a.jpg").read_bytes()
    (folder / "dog/a.jpg").write_bytes(whole[: len(whole) // 2])
    ours = opened(f"folder:{folder}")
    with pytest.raises(DatasetError, match="image cat/z.gif cannot be read"):
        ours.load(1, 16)
    with pytest.raises(DatasetError, match="image dog/a.jpg cannot be read: (?i:.*truncated)"):
        ours.load(2, 16)
    assert unreadable(ours, 16) == [1, 2]


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    save(tmp_path / "set/ok.png", 0)
    os.rename(os.fsencode(tmp_path / "set/ok.png"), os.fsencode(tmp_path) + b"/set/\xff.png")
    ours = opened(f"folder:{tmp_path / 'set'}")
    assert ours.ids == ["\\xff.png"]
    assert ours.load(0, 16).shape == (3, 16, 16)
    assert len(ours.describe()["content_sha256"]) == 64


# ---- torchvision --------------------------------------------------------------------------------


def cifar_archive(root: Path, n: int = 20) -> np.ndarray:
    """CIFAR-10's real layout, five training batches and a test batch of `n` images each."""
    rng = np.random.default_rng(5)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    test = np.empty(0)
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        entry = {"data": pixels, "labels": [i % 10 for i in range(n)], "batch_label": name,
                 "filenames": [f"{name}_{i}.png" for i in range(n)]}  # fmt: skip
        (folder / name).write_bytes(pickle.dumps(entry))
        test = pixels
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"]
    names.append("truck")
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": names, "num_vis": 3072, "num_cases_per_batch": n})
    )
    return test.reshape(n, 3, 32, 32)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """The archive where torchvision looks for it; its checksums are those of our small one."""
    sets = pytest.importorskip("torchvision.datasets")
    pixels = cifar_archive(tmp_path)
    kind = sets.CIFAR10
    import hashlib

    def md5(name: str) -> str:
        return hashlib.md5((tmp_path / "cifar-10-batches-py" / name).read_bytes()).hexdigest()

    monkeypatch.setattr(kind, "train_list", [[n, md5(n)] for n, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[n, md5(n)] for n, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5("batches.meta")})
    return tmp_path, pixels


def test_cifar10_through_torchvisions_own_reader(cifar: tuple[Path, np.ndarray]) -> None:
    root, pixels = cifar
    ours = opened("cifar10", root=root)
    assert len(ours.ids) == 20
    assert ours.class_names[3] == "cat"
    assert ours.labels.tolist() == [i % 10 for i in range(20)]
    np.testing.assert_array_equal(ours.load(7, 32), pixels[7].astype(np.float32) / np.float32(255))
    assert ours.load(7, 64).shape == (3, 64, 64)
    described = ours.describe()
    assert (described["name"], described["split"]) == ("cifar10", "test")
    train = opened("CIFAR10", root=root, split="train")
    assert len(train.ids) == 100
    assert train.describe()["content_sha256"] != described["content_sha256"]


def test_cifar10_is_unpacked_from_its_archive(
    cifar: tuple[Path, np.ndarray], tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`--download` finds the archive in place and unpacks it, as torchvision does."""
    import hashlib

    from torchvision.datasets import CIFAR10

    root, pixels = cifar
    other = tmp_path_factory.mktemp("download")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    (other / CIFAR10.filename).write_bytes(buffer.getvalue())
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
    ours = opened("cifar10", root=other, download=True)
    np.testing.assert_array_equal(ours.load(3, 32), pixels[3].astype(np.float32) / np.float32(255))


def test_a_damaged_archive_is_one_sentence(cifar: tuple[Path, np.ndarray]) -> None:
    root, _ = cifar
    file = root / "cifar-10-batches-py/test_batch"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"CIFAR10 cannot be opened .*corrupted"):
        opened("cifar10", root=root)


def test_a_part_keeps_order_labels_and_ids() -> None:
    whole = opened("noise", count=40)
    part = Part(whole, [5, 3, 30])
    assert part.ids == [whole.ids[i] for i in (5, 3, 30)]
    assert part.labels.tolist() == [5, 3, 14]
    np.testing.assert_array_equal(part.load(2, 16), indexed_noise_image(30, 16, 0))
