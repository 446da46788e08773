"""Archives of torchvision's sets in their real formats: which file is missing, cut, or to be put.

The classes' own lists of files and checksums are kept; only the checksums are those of small
archives made here.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frictionstore.errors import DatasetError
from frictionstore.extract.data.base import DatasetOptions
from frictionstore.extract.data.choose import open_dataset
from frictionstore.extract.data.torchvision import TorchvisionSet
from frictionstore.extract.data.torchvision_files import set_files, still_there

sets = pytest.importorskip("torchvision.datasets")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def refusal(name: str, root: Path, **options: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(name, DatasetOptions(root=root, **options), print)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pack(root: Path, folder: str, name: str) -> None:
    with tarfile.open(root / name, "w:gz") as archive:
        archive.add(root / folder, folder)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, _ in sets.CIFAR10.train_list + sets.CIFAR10.test_list:
        data = {"data": rng.integers(0, 256, (20, 3072), np.uint8), "labels": [1, 0] * 10}
        (folder / name).write_bytes(pickle.dumps(data))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    kind = sets.CIFAR10
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(kind, key, [[n, md5(folder / n)] for n, _ in getattr(kind, key)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / "batches.meta")})
    pack(tmp_path, folder.name, kind.filename)
    monkeypatch.setattr(kind, "tgz_md5", md5(tmp_path / kind.filename))
    monkeypatch.setattr(kind, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    return tmp_path


@pytest.fixture
def stl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("train_X.bin", "test_X.bin", "unlabeled_X.bin"):
        (folder / name).write_bytes(rng.bytes(4 * 3 * 96 * 96))
    for name in ("train_y.bin", "test_y.bin"):
        (folder / name).write_bytes(bytes([1, 2, 1, 2]))
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    kind = sets.STL10
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(kind, key, [[n, md5(folder / n)] for n, _ in getattr(kind, key)])
    pack(tmp_path, folder.name, kind.filename)
    monkeypatch.setattr(kind, "tgz_md5", md5(tmp_path / kind.filename))
    monkeypatch.setattr(kind, "url", "http://127.0.0.1:9/stl10_binary.tar.gz")
    return tmp_path


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    resources = []
    for name, _ in sets.MNIST.resources:
        shape = (6, 28, 28) if "images" in name else (6,)
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        values = rng.integers(0, 10, shape, np.uint8).tobytes()
        (raw / name.removesuffix(".gz")).write_bytes(header + values)
        (raw / name).write_bytes(gzip.compress(header + values))
        resources.append((name, md5(raw / name)))
    monkeypatch.setattr(sets.MNIST, "resources", resources)
    monkeypatch.setattr(sets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    return tmp_path


@pytest.fixture
def usps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    line = "1 " + " ".join(f"{k}:0.5" for k in range(1, 257)) + " \n"
    listing = {}
    for split, (_, name, _) in sets.USPS.split_list.items():
        (tmp_path / name).write_bytes(bz2.compress((line * 5).encode()))
        listing[split] = [f"http://127.0.0.1:9/{name}", name, md5(tmp_path / name)]
    monkeypatch.setattr(sets.USPS, "split_list", listing)
    return tmp_path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


# ---- whole archives: what the split was read from -----------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("cifar10", "test", {"cifar-10-batches-py/test_batch", "cifar-10-batches-py/batches.meta"}),
        ("stl10", "test", {"stl10_binary/test_X.bin", "stl10_binary/test_y.bin",
                           "stl10_binary/class_names.txt"}),
        ("mnist", "test", {"MNIST/raw/t10k-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte",
                           "MNIST/processed/training.pt", "MNIST/processed/test.pt"}),
        ("usps", "train", {"usps.bz2"}),
    ],
)  # fmt: skip
def test_the_files_a_split_is_read_from(
    request: pytest.FixtureRequest, name: str, split: str, expected: set[str]
) -> None:
    root: Path = request.getfixturevalue({"cifar10": "cifar", "stl10": "stl"}.get(name, name))
    dataset = open_dataset(name, DatasetOptions(split=split, root=root), print)
    assert isinstance(dataset, TorchvisionSet)
    recorded = dataset.read_from
    assert recorded is not None
    assert set(recorded) == expected
    for file, sha256 in recorded.items():
        path = root / file
        there = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
        assert sha256 == there
    assert still_there(recorded, root)
    for file in expected:
        path = root / file
        before = path.read_bytes() if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((before or b"") + b"?")
        assert not still_there(recorded, root), file
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    assert still_there(recorded, root)


def test_every_list_that_a_class_has_is_understood() -> None:
    """A new torchvision that keeps its lists in another form would show here."""
    for name in ("CIFAR10", "CIFAR100", "STL10", "MNIST", "FashionMNIST", "KMNIST", "SVHN", "USPS",
                 "SEMEION"):  # fmt: skip
        found = set_files(getattr(sets, name), "test")
        assert found.files, name
        assert found.read, name
        assert all("://" in address for address, _ in found.sources.values()), name
    for name in ("Food101", "DTD", "OxfordIIITPet", "Country211"):
        assert set_files(getattr(sets, name), "test").sources, name
    for name in ("EuroSAT", "GTSRB", "EMNIST", "Places365"):
        set_files(getattr(sets, name), "test")


# ---- faults -------------------------------------------------------------------------------------


def test_one_batch_missing(cifar: Path) -> None:
    (cifar / "cifar-10-batches-py/data_batch_3").unlink()
    said = refusal("cifar10", cifar)
    batch, archive = "cifar-10-batches-py/data_batch_3", "cifar-10-python.tar.gz"
    assert said == (
        f"CIFAR10 cannot be opened in {cifar}: {cifar}/{batch} is missing: "
        f"add --download to have {cifar}/{archive} unpacked again"
    )
    (cifar / archive).unlink()
    assert refusal("cifar10", cifar) == (
        f"CIFAR10 cannot be opened in {cifar}: {cifar}/{batch} is missing: put "
        f"http://127.0.0.1:9/{archive} to {cifar}/{archive} and add --download to have it unpacked"
    )
    assert "and fetching it failed: " in refusal("cifar10", cifar, download=True)


def test_one_batch_cut(cifar: Path) -> None:
    cut(cifar / "cifar-10-batches-py/test_batch")
    assert f"{cifar}/cifar-10-batches-py/test_batch is cut or corrupted (" in refusal(
        "cifar10", cifar
    )
    assert len(open_dataset("cifar10", DatasetOptions(root=cifar, download=True), print).ids) == 20


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
@pytest.mark.parametrize("download", [False, True])
def test_a_cut_archive(request: pytest.FixtureRequest, name: str, download: bool) -> None:
    import shutil

    root: Path = request.getfixturevalue({"cifar10": "cifar", "stl10": "stl"}[name])
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    shutil.rmtree(folder)
    (archive,) = root.glob("*.tar.gz")
    cut(archive)
    said = refusal(name, root, download=download)
    assert f"cannot be opened in {root}: {archive} is cut or corrupted (" in said
    assert f"put a whole one there (http://127.0.0.1:9/{archive.name})" in said
    assert ("add --download" in said) is not download


def test_an_archive_that_is_not_unpacked(stl: Path) -> None:
    import shutil

    shutil.rmtree(stl / "stl10_binary")
    assert refusal("stl10", stl).endswith(
        f"{stl}/stl10_binary.tar.gz is there and not unpacked: add --download to have that done"
    )
    assert len(open_dataset("stl10", DatasetOptions(root=stl, download=True), print).ids) == 4


def test_a_file_of_stl_missing(stl: Path) -> None:
    (stl / "stl10_binary/test_y.bin").unlink()
    assert f"{stl}/stl10_binary/test_y.bin is missing: add --download" in refusal("stl10", stl)


@pytest.mark.parametrize("download", [False, True])
def test_a_file_of_mnist_cut_or_missing(mnist: Path, download: bool) -> None:
    """torchvision compares no checksum of these: the file's own header tells."""
    file = mnist / "MNIST/raw/t10k-images-idx3-ubyte"
    cut(file)
    said = refusal("mnist", mnist, download=download)
    assert f"{file} is cut or corrupted (4.71 kB, its header says 4.72 kB): remove it and " in said
    file.write_bytes(b"")
    assert f"{file} is cut or corrupted (0 B" in refusal("mnist", mnist, download=download)
    file.unlink()
    if not download:
        assert f"{file} is missing: add --download to have {file}.gz unpacked" in refusal(
            "mnist", mnist
        )
        file.with_name(file.name + ".gz").unlink()
        assert f"put http://127.0.0.1:9/{file.name}.gz to {file}.gz and add" in refusal(
            "mnist", mnist
        )


def test_a_file_of_usps_cut_or_missing(usps: Path) -> None:
    cut(usps / "usps.t.bz2")
    said = refusal("usps", usps)
    assert f"{usps}/usps.t.bz2 is cut or corrupted (" in said
    assert said.endswith(f"put http://127.0.0.1:9/usps.t.bz2 to {usps}/usps.t.bz2")
    (usps / "usps.t.bz2").unlink()
    assert "none of its files is there: let torchvision fetch it with --download, or put " in (
        refusal("usps", usps)
    )
    assert "and fetching it failed: " in refusal("usps", usps, download=True)


def test_a_split_that_a_set_has_not(stl: Path) -> None:
    assert "Unknown value 'valid' for argument split" in refusal("stl10", stl, split="valid")


def test_an_image_of_a_folder_set_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EuroSAT is a folder of images, read one by one while the set is identified."""
    folder = tmp_path / "eurosat/2750"
    for name in ("Forest", "River"):
        (folder / name).mkdir(parents=True)
        for index in range(2):
            pixels = np.full((8, 8, 3), 40 * index, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    whole = open_dataset("eurosat", DatasetOptions(root=tmp_path), print)
    assert whole.describe()["content_sha256"]
    (folder / "River/0.png").write_bytes(b"\x89PNG but no more")
    dataset = open_dataset("eurosat", DatasetOptions(root=tmp_path), print)
    with pytest.raises(DatasetError, match="image 2 of EuroSAT cannot be read: "):
        dataset.describe()
    (folder / "Forest/0.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="image 0 of EuroSAT cannot be read: "):
        open_dataset("eurosat", DatasetOptions(root=tmp_path), print)


@pytest.mark.parametrize("name", ["eurosat", "flowers102", "fgvcaircraft"])
def test_torchvision_reads_named_formats_only(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostScript named .jpg would start Ghostscript, by a loader and by what sets do themselves."""
    from PIL import EpsImagePlugin

    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    started: list[object] = []

    def start(*given: object, **more: object) -> Any:
        started.append(given)
        return Image.new("RGB", (8, 8)).im

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    root = tmp_path / "fgvc-aircraft-2013b/data"
    for folder in ("eurosat/2750/AnnualCrop", "flowers-102/jpg", "fgvc-aircraft-2013b/data/images"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("eurosat/2750/AnnualCrop/0.jpg", "flowers-102/jpg/image_00001.jpg",
                 "fgvc-aircraft-2013b/data/images/1.jpg"):  # fmt: skip
        (tmp_path / file).write_bytes(postscript)
    (root / "variants.txt").write_text("a\n")
    (root / "images_variant_trainval.txt").write_text("1 a\n")
    if name == "flowers102":
        scipy = pytest.importorskip("scipy.io")
        for file, key in (("setid", "trnid"), ("imagelabels", "labels")):
            scipy.savemat(tmp_path / f"flowers-102/{file}.mat", {key: [[1, 2]]})
        monkeypatch.setattr(sets.Flowers102, "_check_integrity", lambda self: True)
    before = Image.open
    with pytest.raises(DatasetError, match="image 0 of .* cannot be read: cannot identify image"):
        open_dataset(name, DatasetOptions(root=tmp_path), print)
    assert started == []
    assert Image.open is before
    whole = Image.open(io.BytesIO(postscript))  # as it was for everybody else
    whole.load()
    assert len(started) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a\nb"),
        EOFError(),
        KeyError("data"),
        AssertionError(),
        pickle.UnpicklingError(),
    ],
)
def test_whatever_torchvision_raises_is_one_sentence(
    cifar: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: Any, **options: Any) -> Callable[..., Any]:
        raise error

    monkeypatch.setattr(sets.CIFAR10, "_load_meta", fail)
    assert refusal("cifar10", cifar).startswith(f"CIFAR10 cannot be opened in {cifar} (")


@pytest.mark.slow
def test_a_server_of_a_set_that_never_answers(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    import socket

    from frictionstore.extract.data import torchvision as datasets

    monkeypatch.setattr(datasets, "SILENCE", 2.0)
    shutil.rmtree(cifar / "cifar-10-batches-py")
    (cifar / "cifar-10-python.tar.gz").unlink()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(sets.CIFAR10, "url", f"http://127.0.0.1:{port}/c.tar.gz")
        said = refusal("cifar10", cifar, download=True)
    assert "none of its files is there: check the network" in said
    assert "timed out" in said
    assert socket.getdefaulttimeout() is None
