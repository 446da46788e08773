"""Folders of images as strangers leave them: formats, bounds, depth, alpha, permissions."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frictionstore.errors import DatasetError
from frictionstore.extract.data import folder as folders
from frictionstore.extract.data.base import ChangedError, DatasetOptions
from frictionstore.extract.data.choose import unreadable
from frictionstore.extract.data.folder import Folder
from frictionstore.extract.data.images import resize_and_crop, to_array
from tests.support import DATA

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def opened(root: Path, **options: Any) -> Folder:
    return Folder(root, DatasetOptions(**options), lambda text: None)


def noise(height: int = 16, width: int = 16, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng([height, width, channels])
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def flat(tmp_path: Path, name: str, image: Image.Image, **options: Any) -> Folder:
    (tmp_path / "set").mkdir(exist_ok=True)
    image.save(tmp_path / "set" / name, **options)
    return opened(tmp_path / "set")


# ---- formats and bounds -------------------------------------------------------------------------


def test_postscript_in_a_png_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "started"
    program = tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {witness}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/photo.png").write_bytes(POSTSCRIPT)
    ours = opened(tmp_path / "set")
    ours.describe()
    with pytest.raises(DatasetError, match="it is not a whole image of PNG, JPEG"):
        ours.load(0, 8)
    assert not witness.exists()


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1)])
def test_a_long_image_is_cropped_before_it_is_made_large(shape: tuple[int, int]) -> None:
    """The resized image would have 245 million pixels."""
    image = Image.fromarray(noise(*shape))
    code = (
        "import resource, sys; import numpy as np; from PIL import Image\n"
        "from frictionstore.extract.data.images import to_array\n"
        f"image = Image.fromarray(np.zeros(({shape[0]}, {shape[1]}, 3), np.uint8))\n"
        "to_array(image, 8)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "to_array(image, 64)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 100e6
    # the image is 1 pixel high: every row of the square is the same, from the middle of the line
    made = to_array(image, 64)
    line = np.asarray(image).reshape(-1, 3).transpose() / 255
    middle = made[:, 0] if shape[0] == 1 else made[:, :, 0]
    for channel in range(3):
        low, high = line[channel, 29_998:30_002].min(), line[channel, 29_998:30_002].max()
        assert low - 0.01 <= middle[channel].min()
        assert middle[channel].max() <= high + 0.01


def test_cropping_first_is_the_same_up_to_a_grey_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """And ordinary images are made as before, to the byte."""
    from frictionstore.extract.data import images

    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width, size = (int(n) for n in rng.integers(1, [40, 1500, 60]))
        image = Image.fromarray(noise(height, width))
        image = image if rng.random() < 0.5 else image.transpose(Image.Transpose.TRANSPOSE)
        plain = np.asarray(resize_and_crop(image, size)).astype(int)
        with monkeypatch.context() as patch:
            patch.setattr(images, "LARGEST_RESIZED", 0)
            first = np.asarray(resize_and_crop(image, size)).astype(int)
        assert first.shape == (size, size, 3)
        assert np.abs(first - plain).max() <= 1


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    side = 14_000
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.pgm").write_bytes(b"P5 %d %d 255\n" % (side, side) + b"\0" * 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DatasetError, match=r"a\.pgm cannot be read: .*pixels"):
        opened(tmp_path / "set").load(0, 64)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("limit", [1000])
def test_a_file_that_is_too_large_or_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    from frictionstore.extract.data import decoding

    (tmp_path / "set").mkdir()
    os.mkfifo(tmp_path / "set/a.png")
    ours = opened(tmp_path / "set")
    with pytest.raises(DatasetError, match=r"a\.png cannot be read: it is not a regular file"):
        ours.describe()
    os.remove(tmp_path / "set/a.png")
    Image.fromarray(noise(64, 64)).save(tmp_path / "set/a.png")
    monkeypatch.setattr(decoding, "LARGEST_FILE", limit)
    with pytest.raises(DatasetError, match=r"it has more than 1 kB"):
        opened(tmp_path / "set").describe()


# ---- what Pillow's 8 bits alone do not say ------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm", "jp2"])
def test_16_bits_keep_their_scale_and_their_precision(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 32768], [65535, 1]], np.uint16)
    ours = flat(tmp_path, f"a.{ending}", Image.fromarray(values))
    assert ours.describe()["decoding"] == ["16 bits over the largest value"]
    np.testing.assert_allclose(
        ours.load(0, 2), np.broadcast_to(values / 65535, (3, 2, 2)), rtol=0, atol=1e-7
    )
    assert ours.load(0, 2, grey=True).shape == (1, 2, 2)


def test_16_bits_resized_are_the_mean(tmp_path: Path) -> None:
    values = np.array([[1, 3], [6, 2]], np.uint16)
    ours = flat(tmp_path, "a.png", Image.fromarray(values))
    np.testing.assert_allclose(ours.load(0, 1)[0], [[3 / 65535]], rtol=1e-5)


def test_floats_are_taken_as_they_are_or_refused(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5], [1.0, 0.25]], np.float32)
    ours = flat(tmp_path, "a.tiff", Image.fromarray(values))
    assert ours.describe()["decoding"] == ["floats as they are"]
    np.testing.assert_array_equal(ours.load(0, 2), np.broadcast_to(values, (3, 2, 2)))
    for odd in (-0.1, 1.5, np.nan, np.inf):
        values[0, 0] = odd
        ours = flat(tmp_path, "a.tiff", Image.fromarray(values))
        with pytest.raises(DatasetError, match="which have to lie between 0 and 1"):
            ours.load(0, 2)


def test_whole_numbers_without_a_scale_are_refused(tmp_path: Path) -> None:
    ours = flat(tmp_path, "a.tiff", Image.fromarray(np.array([[0, 70000]], np.int32)))
    with pytest.raises(DatasetError, match="signed or 32-bit whole numbers"):
        ours.load(0, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "tiff", "webp"])
def test_orientation_is_applied(tmp_path: Path, ending: str, orientation: int) -> None:
    """Against where the EXIF standard says that the first row and the first column are."""
    pixels = np.full((16, 16), 128, np.uint8)
    pixels[:8, :8], pixels[:8, 8:] = 255, 0  # first row: white, black
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if ending == "webp" else {}
    ours = flat(tmp_path, f"a.{ending}", Image.fromarray(pixels), exif=exif, **lossless)
    made = ours.load(0, 16)[0]
    corners = {  # of the shown image: where the file's first row begins and where it ends
        1: ((0, 0), (0, 1)), 2: ((0, 1), (0, 0)), 3: ((1, 1), (1, 0)), 4: ((1, 0), (1, 1)),
        5: ((0, 0), (1, 0)), 6: ((0, 1), (1, 1)), 7: ((1, 1), (0, 1)), 8: ((1, 0), (0, 0)),
    }  # fmt: skip
    (white, black) = corners[orientation]
    assert made[2 + 11 * white[0], 2 + 11 * white[1]] > 0.9
    assert made[2 + 11 * black[0], 2 + 11 * black[1]] < 0.1
    named = "decoding" in ours.describe()
    assert named == (orientation != 1 and ending != "tiff")  # TIFF was turned at all times


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_lie_over_white(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        image = Image.frombytes("P", (2, 1), bytes([0, 1]))
        image.putpalette([0, 0, 0, 0, 0, 0])
        ours = flat(tmp_path, "a.png", image, transparency=0)
        opaque, clear, half = (0, 1), (0, 0), None
    else:
        image = Image.new(mode, (3, 1))
        zero = (0, 0, 0) if mode == "RGBA" else (0,)
        for x, alpha in enumerate((255, 0, 51)):
            image.putpixel((x, 0), (*zero, alpha))
        image = image.resize((3, 3), Image.Resampling.NEAREST)
        ours = flat(tmp_path, "a.png", image)
        opaque, clear, half = (0, 0), (0, 1), (0, 2)
    assert ours.describe()["decoding"] == ["alpha over white"]
    if mode == "P":
        ours = flat(tmp_path, "a.png", image.crop((0, 0, 1, 1)), transparency=0)
        assert ours.load(0, 1).max() == 1
        ours = flat(tmp_path, "a.png", image.crop((1, 0, 2, 1)), transparency=0)
        assert ours.load(0, 1).max() == 0
        return
    made = ours.load(0, 3)[0]
    assert made[opaque] == 0
    assert made[clear] == 1
    assert half is not None
    assert made[half] == pytest.approx(0.8, abs=1 / 255)


def test_ordinary_folders_keep_their_identity_and_their_bytes(tmp_path: Path) -> None:
    """The hash, and the pixels, are those that earlier versions had."""
    import hashlib

    pixels = noise(20, 24)
    ours = flat(tmp_path, "a.png", Image.fromarray(pixels))
    digest = hashlib.sha256((tmp_path / "set/a.png").read_bytes()).hexdigest()
    part = f"a.png\0-1\0{digest}".encode()
    whole = hashlib.sha256(len(part).to_bytes(8, "little") + part).hexdigest()
    assert ours.describe() == {"name": "folder", "content_sha256": whole}
    cropped = pixels[:, 2:22].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(ours.load(0, 20), cropped)


def test_damaged_exif_says_nothing(tmp_path: Path) -> None:
    pixels = noise()
    ours = flat(tmp_path, "a.png", Image.fromarray(pixels), exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    assert ours.load(0, 16)[0, 3, 4] == np.float32(pixels[3, 4, 0]) / np.float32(255)


# ---- changed between hashing and measuring ------------------------------------------------------


def test_an_image_that_changes_after_it_was_hashed_is_noticed(tmp_path: Path) -> None:
    ours = flat(tmp_path, "a.png", Image.fromarray(noise()))
    ours.describe()
    ours.load(0, 8)
    path = tmp_path / "set/a.png"
    facts = path.stat()
    data = bytearray(path.read_bytes())
    Image.fromarray(noise(16, 16, 3)[::-1].copy()).save(path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(ChangedError, match=r"a\.png has changed since this run began"):
        ours.load(0, 8)
    with pytest.raises(ChangedError):
        unreadable(ours, 8)  # it is not left out as one that cannot be read
    path.unlink()
    with pytest.raises(ChangedError):
        ours.load(0, 8)
    path.write_bytes(data)
    ours.load(0, 8)


# ---- what cannot be read ------------------------------------------------------------------------


def classes(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for name in ("cat/a.png", "cat/deep/b.png", "dog/c.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise()).save(root / name)
    return root


def shut(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Folders that nobody may look into; for root there is no such thing."""
    scandir = os.scandir

    def refusing(path: Any = ".") -> Any:
        if Path(path) in paths:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def test_a_folder_that_cannot_be_read_is_an_error_or_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = classes(tmp_path)
    whole = opened(root).describe()
    shut(monkeypatch, root / "cat/deep")
    with pytest.raises(
        DatasetError, match=r"cat/deep cannot be read \(Permission denied\): .*skip"
    ):
        opened(root)
    ours = opened(root, skip_unreadable=True)
    assert ours.ids == ["cat/a.png", "dog/c.png"]
    assert ours.left_out == ["cat/deep/"]
    assert ours.describe() != whole
    shut(monkeypatch, root / "cat")
    ours = opened(root, skip_unreadable=True)
    assert (ours.ids, ours.class_names, ours.labels.tolist()) == (["dog/c.png"], ["dog"], [0])
    shut(monkeypatch, root)
    with pytest.raises(DatasetError, match="make it readable"):
        opened(root, skip_unreadable=True)


def test_a_linked_folder_inside_a_class_is_an_error_or_listed(tmp_path: Path) -> None:
    root = classes(tmp_path)
    (root / "dog/more").symlink_to(root / "cat")
    with pytest.raises(DatasetError, match="dog/more is a link to a folder"):
        opened(root)
    assert opened(root, skip_unreadable=True).left_out == ["dog/more/"]
    (root / "dog/more").unlink()
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(noise()).save(tmp_path / "elsewhere/d.png")
    (root / "bird").symlink_to(tmp_path / "elsewhere")  # a class may be a link
    assert opened(root).class_names == ["bird", "cat", "dog"]


def test_broken_links_and_permissions_can_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = classes(tmp_path)
    (root / "dog/gone.png").symlink_to(root / "nowhere.png")
    (root / "dog/round.png").symlink_to(root / "dog/round.png")
    with pytest.raises(
        DatasetError, match=r"dog/(gone|round)\.png cannot be read: .*--skip-unread"
    ):
        opened(root).describe()
    read = folders.read_whole

    def refusing(path: Path, largest: int) -> bytes:
        if path.name == "c.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, largest)

    monkeypatch.setattr(folders, "read_whole", refusing)
    ours = opened(root, skip_unreadable=True)
    ours.describe()
    assert [ours.ids[i] for i in unreadable(ours, 8)] == [
        "dog/c.png", "dog/gone.png", "dog/round.png",
    ]  # fmt: skip


def test_what_is_left_out_is_listed_in_the_store(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import frictionstore as fs
    from frictionstore.extract.job import run_job
    from frictionstore.extract.request import Job

    root = classes(tmp_path)
    (root / "dog/more").symlink_to(root / "cat")
    (root / "dog/gone.png").symlink_to(root / "nowhere.png")
    said: list[str] = []
    job = Job(
        f"folder:{root}", str(DATA / "svae/svae_d4.pt"), tmp_path / "a.zarr", image_size=16,
        device="cpu", skip_unreadable=True, workers=1,
    )  # fmt: skip
    run_job(job, report=said.append)
    store = fs.open(tmp_path / "a.zarr")
    assert store.image_ids.tolist() == ["cat/a.png", "cat/deep/b.png", "dog/c.png"]
    assert store.attributes["skipped"] == ["dog/gone.png", "dog/more/"]
    assert "1 folders cannot be read and are left out" in said
    assert run_job(job)["status"] == "up to date"


def test_pillow_knows_the_postscript() -> None:
    """What the test above calls PostScript is that to Pillow: it could not fail otherwise."""
    assert Image.open(io.BytesIO(POSTSCRIPT)).format == "EPS"
