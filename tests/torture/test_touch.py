"""What the tool may touch: nothing through a link, nothing that it did not write.

The user's things lie under every name that the tool uses, as links, files, folders and stores, and
inside the stores. Afterwards all of them are there with their bytes, whatever the command did.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.check.verify import verify
from frictionstore.errors import FrictionstoreError, StoreError
from frictionstore.share.pack import pack
from frictionstore.share.push_pull import pull
from tests import making
from tests.torture.processes import Work, Zygote, command

Command = Callable[[Path, Path], object]


def break_bit(store: Path) -> None:
    path = store / "S/c/1/0/0/0"
    data = bytearray(path.read_bytes())
    data[50] ^= 8
    path.write_bytes(data)


def overwrite(source: Path, target: Path) -> object:
    return making.write(target, making.plan(0), overwrite=True)


def repair(source: Path, target: Path) -> object:
    if target.exists() and not target.is_symlink():
        break_bit(target)
    return making.write(target, making.plan(1), repair=True)


def write(source: Path, target: Path) -> object:
    return making.write(target, making.plan(0))


def pull_over(source: Path, target: Path) -> object:
    return pull(source, target, overwrite=True)


def pull_plain(source: Path, target: Path) -> object:
    return pull(source, target)


def pack_there(source: Path, target: Path) -> object:
    return pack(source, target.with_suffix(".zip"))


def subset_over(source: Path, target: Path) -> object:
    from frictionstore.store.combine import subset

    return subset(source, target, limit=20, overwrite=True)


ALL = (overwrite, repair, write, pull_over, pull_plain, pack_there, subset_over)


def everything(folder: Path) -> dict[str, object]:
    """All there is below a folder: bytes of files, ends of links, names of folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        key = path.relative_to(folder).as_posix()
        found[key] = (
            os.readlink(path)
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else None
        )
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two stores of different content."""
    folder = tmp_path_factory.mktemp("stores")
    made = (folder / "source.zarr", folder / "other.zarr")
    for number, path in enumerate(made):
        making.write(path, making.plan(number))
    return made


@pytest.mark.parametrize("do", [overwrite, pull_over, subset_over])
def test_a_linked_target_is_replaced_where_it_lies(
    tmp_path: Path, stores: tuple[Path, Path], do: Command, caplog: pytest.LogCaptureFixture
) -> None:
    """The link stays, what it leads to is replaced whole, and that is said."""
    real, target = tmp_path / "disk" / "real.zarr", tmp_path / "x.zarr"
    shutil.copytree(stores[1], real)
    target.symlink_to(real)
    for _ in range(2):
        do(stores[0], target)
        assert target.is_symlink()
        assert verify(real).ok
        assert fs.open(target).digest != fs.open(stores[1]).digest
        assert sorted(os.listdir(tmp_path)) == ["disk", "x.zarr"]
        assert os.listdir(tmp_path / "disk") == ["real.zarr"]
    assert "is a link" in caplog.text


def test_a_linked_damaged_store_is_repaired_where_it_lies(
    tmp_path: Path, stores: tuple[Path, Path]
) -> None:
    real, target = tmp_path / "real.zarr", tmp_path / "links" / "x.zarr"
    shutil.copytree(stores[1], real)
    break_bit(real)
    target.parent.mkdir()
    target.symlink_to(real)
    assert making.write(target, making.plan(1), repair=True) == [1]
    assert target.is_symlink()
    assert making.content(real) == making.content(stores[1])


@pytest.mark.parametrize("do", ALL)
def test_a_link_to_nothing_is_refused(
    tmp_path: Path, stores: tuple[Path, Path], do: Command
) -> None:
    for name in ("x.zarr", "x.zip"):
        (tmp_path / name).symlink_to("nowhere")
    before = everything(tmp_path)
    with pytest.raises(FrictionstoreError, match="leads to nothing"):
        do(stores[0], tmp_path / "x.zarr")
    assert everything(tmp_path) == before


def put_file(path: Path, stores: tuple[Path, Path]) -> None:
    path.write_text("precious")


def put_empty(path: Path, stores: tuple[Path, Path]) -> None:
    path.write_text("")


def put_folder(path: Path, stores: tuple[Path, Path]) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("precious")


def put_store(path: Path, stores: tuple[Path, Path]) -> None:
    shutil.copytree(stores[1], path)


def put_half_store(path: Path, stores: tuple[Path, Path]) -> None:
    shutil.copytree(stores[1], path)
    (path / "MANIFEST.sha256").unlink()


def put_transfer(path: Path, stores: tuple[Path, Path]) -> None:
    """What an earlier version leaves, and a note of the user's in it."""
    path.mkdir()
    (path / "transfer.json").write_text(json.dumps({"digest": "0" * 64}))
    (path / "notes.txt").write_text("precious")


def put_rest_of_another(path: Path, stores: tuple[Path, Path]) -> None:
    """A copy of what an interrupted run left for a target of another name."""
    shutil.copytree(stores[1], path)
    (path / ".frictionstore").write_text(
        json.dumps({"frictionstore": "replaced", "target": "y.zarr"})
    )


def put_own_file_of_the_marks_name(path: Path, stores: tuple[Path, Path]) -> None:
    path.mkdir()
    (path / ".frictionstore").write_text("precious")


def put_link(what: Callable[[Path, tuple[Path, Path]], None]) -> Callable[..., None]:
    def put(path: Path, stores: tuple[Path, Path]) -> None:
        there = path.parent / "linked"
        if not os.path.lexists(there):
            what(there, stores)
        path.symlink_to(there)

    put.__name__ = f"link_to_{what.__name__}"
    return put


PUTS = [
    put_file, put_empty, put_folder, put_store, put_half_store, put_transfer, put_rest_of_another,
    put_own_file_of_the_marks_name,
    *map(put_link, (put_file, put_folder, put_store, put_transfer)),
]  # fmt: skip


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("suffix", [".partial", ".replaced", ".lock"])
@pytest.mark.parametrize("do", ALL)
def test_names_that_the_tool_uses(
    tmp_path: Path,
    stores: tuple[Path, Path],
    do: Command,
    suffix: str,
    put: Callable[[Path, tuple[Path, Path]], None],
    counts: Counter[str],
) -> None:
    """Done, or refused by name; what lay there is there."""
    target = tmp_path / "x.zarr"
    new = do in (write, pull_plain)
    if not new:
        shutil.copytree(stores[1], target)
    if do is repair:
        break_bit(target)
    for base in ("x.zarr", "x.zip"):
        put(tmp_path / (base + suffix), stores)
    theirs = {
        key: value for key, value in everything(tmp_path).items() if not key.startswith("x.zarr/")
    }
    try:
        do(stores[0], target)
    except StoreError as error:
        said = str(error)
        assert suffix in said
        assert len(said.splitlines()) == 1
        assert suffix != ".replaced", "that name is not needed where folders can be swapped"
        counts["a name in use: refused by name"] += 1
    else:
        counts["a name in use: done beside it"] += 1
        assert do is pack_there or verify(target).ok
    now = everything(tmp_path)
    assert {key: now.get(key, "gone") for key in theirs} == theirs


@pytest.mark.parametrize("exchange", [True, False], ids=["swapped", "two renames"])
@pytest.mark.parametrize("do", [overwrite, repair, pull_over, pull_plain, subset_over])
@pytest.mark.parametrize(
    "name", ["notes.txt", ".DS_Store", "results/f.csv", "S/notes", "S/c/9/thing.txt", "README.md"]
)
def test_files_of_the_users_in_a_store(
    tmp_path: Path,
    stores: tuple[Path, Path],
    name: str,
    do: Command,
    exchange: bool,
    counts: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They survive; where the store would have to be replaced, they are named and it stays."""
    if not exchange:
        monkeypatch.setattr("frictionstore.io.owned.exchange", lambda a, b: False)
    target = tmp_path / "x.zarr"
    shutil.copytree(stores[1], target)
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("precious")
    before = everything(target)
    source = stores[1] if do is pull_plain else stores[0]
    if do is pull_plain:
        do(source, target)
        counts["a user's file in a store: nothing was to be done"] += 1
    else:
        with pytest.raises(StoreError, match=re.escape(name.split("/")[-1])):
            do(source, target)
        counts["a user's file in a store: the store is not replaced"] += 1
    assert path.read_text() == "precious"
    if do is not repair:
        assert everything(target) == before
    assert os.listdir(tmp_path) == ["x.zarr"]


def test_a_pull_with_strays_is_up_to_date_and_one_with_damage_is_not(
    tmp_path: Path, stores: tuple[Path, Path]
) -> None:
    target = tmp_path / "x.zarr"
    assert pull(stores[0], target).files
    (target / "notes.txt").write_text("precious")
    assert pull(stores[0], target).files == 0
    break_bit(target)
    with pytest.raises(StoreError, match=r"notes\.txt"):
        pull(stores[0], target)
    (target / "notes.txt").rename(tmp_path / "notes.txt")
    assert pull(stores[0], target).files
    assert verify(target).ok


def test_a_link_in_the_place_of_a_part(tmp_path: Path, stores: tuple[Path, Path]) -> None:
    """An unfinished folder of ours in which a link was put is not written through."""
    from frictionstore.io import owned

    precious = tmp_path / "precious"
    precious.write_text("precious")
    target, partial = tmp_path / "x.zarr", tmp_path / "x.zarr.partial"
    partial.mkdir()
    owned.mark(partial, target, "transfer")
    (partial / "S/c/0/0/0").mkdir(parents=True)
    (partial / "S/c/0/0/0/0.part").symlink_to(precious)
    with pytest.raises(StoreError, match=r"S/c/0/0/0/0\.part"):
        pull(stores[0], target)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("do", [overwrite, pull_over, subset_over])
def test_an_end_between_the_mark_and_the_swap(
    tmp_path: Path, stores: tuple[Path, Path], do: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old store is whole under its name, its mark does no harm, and the next run replaces it.

    A kill at random finds these microseconds once in hundreds of runs."""
    from frictionstore.io import owned

    def killed(a: Path, b: Path) -> bool:
        raise KeyboardInterrupt

    target = tmp_path / "x.zarr"
    shutil.copytree(stores[1], target)
    with monkeypatch.context() as patch:
        patch.setattr(owned, "exchange", killed)
        # an end that nothing is told of: what tidies up does not run
        patch.setattr(owned, "unmark", lambda folder, target: None)
        with pytest.raises(KeyboardInterrupt):
            do(stores[0], target)
    assert set(os.listdir(target)) - set(os.listdir(stores[1])) == {owned.TOKEN}
    assert verify(target).ok
    assert pull(stores[1], target).files == 0
    do(stores[0], target)
    assert verify(target).ok
    assert making.content(target) != making.content(stores[1])
    assert os.listdir(tmp_path) == ["x.zarr"]


def test_what_is_put_in_while_a_store_is_replaced_is_kept(
    tmp_path: Path, stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look and the removal: the folder stays for it, and the next run says so."""
    from frictionstore.io import owned

    target = tmp_path / "x.zarr"
    shutil.copytree(stores[1], target)
    swap = owned.exchange

    def and_put(a: Path, b: Path) -> bool:
        (b / "notes.txt").write_text("precious")
        return swap(a, b)

    monkeypatch.setattr(owned, "exchange", and_put)
    pull(stores[0], target, overwrite=True)
    monkeypatch.undo()
    assert verify(target).ok
    assert (tmp_path / "x.zarr.partial/notes.txt").read_text() == "precious"
    with pytest.raises(StoreError, match=r"notes\.txt"):
        pull(stores[1], target, overwrite=True)
    assert verify(target).ok


def test_exports_at_once(
    tmp_path: Path,
    child: Zygote,
    other_child: Zygote,
    counts: Counter[str],
    full: bool,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One wins, the other says so; what has the store's name is whole."""
    source, site = tmp_path / "source.zarr", tmp_path / "site"
    making.write(source, making.plan(0, 400))
    expected = making.content(source)
    rng = np.random.default_rng([seed, 31])
    work = Work("tests.torture.writing:export", [str(source), str(site)])
    first = child.run(work)
    assert first.status == 0, first.errors
    for _ in range(60 if full else 5):
        shutil.rmtree(site)
        child.start(work)
        time.sleep(rng.uniform(0, first.seconds / 4))
        other_child.start(work)
        ends = [child.wait(), other_child.wait()]
        assert 0 in [ended.status for ended in ends]
        for ended in ends:
            if ended.status:
                assert "is being written by" in ended.check_sentence()
                counts["two exports: one is told who writes"] += 1
            else:
                counts["two exports: ended whole"] += 1
        assert making.content(site / "source.zarr") == expected
        assert sorted(os.listdir(site)) == ["index.html", "source.zarr"]


def test_an_export_looks_at_what_is_there(tmp_path: Path, stores: tuple[Path, Path]) -> None:
    """A damaged copy under the name is mended."""
    from tests.torture.writing import export

    export([str(stores[0]), str(tmp_path)])
    break_bit(tmp_path / "source.zarr")
    export([str(stores[0]), str(tmp_path)])
    assert verify(tmp_path / "source.zarr").ok


@pytest.mark.parametrize("what", ["pull", "unpack", "pack"])
def test_copies_at_once(
    tmp_path: Path,
    stores: tuple[Path, Path],
    child: Zygote,
    other_child: Zygote,
    counts: Counter[str],
    full: bool,
    seed: int,
    what: str,
) -> None:
    source = tmp_path / "source.zarr"
    making.write(source, making.plan(0, 200))
    origin = pack(source).target if what == "unpack" else str(source)
    target = tmp_path / "into" / ("copy.zip" if what == "pack" else "copy.zarr")
    work = Work("tests.torture.writing:copy", [what, origin, str(target)])
    rng = np.random.default_rng([seed, 32])
    seconds = child.run(work).seconds
    for _ in range(30 if full else 3):
        shutil.rmtree(target.parent)
        child.start(work)
        time.sleep(rng.uniform(0, seconds / 2))
        other_child.start(work)
        ends = [child.wait(), other_child.wait()]
        assert 0 in [ended.status for ended in ends]
        for ended in ends:
            if ended.status:
                assert "is being written by" in ended.check_sentence()
                counts[f"two of {what}: one is told who writes"] += 1
            else:
                counts[f"two of {what}: ended whole"] += 1
        assert verify(target).ok
        assert os.listdir(target.parent) == [target.name]


def test_a_file_system_that_does_not_flush_folders(
    tmp_path: Path, stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EINVAL of a folder is no failure; of a file, it is one."""
    real, files = os.fsync, [True]

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}") or not files[0]:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    target = tmp_path / "x.zarr"
    making.write(target, making.plan(0))
    making.write(target, making.plan(1), overwrite=True)
    pull(stores[0], target, overwrite=True)
    pack(target, tmp_path / "x.zip")
    assert verify(target).ok
    assert verify(tmp_path / "x.zip").ok
    files[0] = False
    with pytest.raises(StoreError, match="Invalid argument"):
        making.write(tmp_path / "y.zarr", making.plan(0))


@pytest.mark.parametrize("name", ["a%20b.zarr", "100%.zarr", "a%2fb.zarr"])
def test_a_percent_sign_in_a_path_is_one(
    tmp_path: Path, stores: tuple[Path, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stores[0], tmp_path / name)
    (tmp_path / "into").mkdir()
    assert pull(tmp_path / name, tmp_path / "into").target == str(tmp_path / "into" / name)
    monkeypatch.chdir(tmp_path)
    packed = pack(name).target
    assert packed == f"{name}.zip"
    assert pull(packed, tmp_path / "again").target == str(tmp_path / "again" / name)


@pytest.mark.slow
def test_out_inside_the_data(tmp_path: Path, extracting_child: Zygote) -> None:
    """The store, whole or not, is no class of the folder of images that it lies in."""
    from PIL import Image

    rng = np.random.default_rng(5)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(3):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    work = command(
        "extract", "--dataset", f"folder:{tmp_path}", "--encoder", "speckle", "--workers", "0",
        "--device", "cpu", "--quiet", "--out", str(tmp_path / "x.zarr"), "--json",
    )  # fmt: skip
    for status in ("complete", "up to date"):
        ended = extracting_child.run(work)
        assert ended.status == 0, ended.errors
        assert json.loads(ended.errors)["status"] == status
    (tmp_path / "x.zarr").rename(tmp_path / "y.zarr")  # another store there is none either
    extracting_child.start(work)
    extracting_child.kill_after(0.0)
    assert extracting_child.run(work).status == 0


def test_a_users_replaced_is_not_used_where_folders_cannot_be_swapped(
    tmp_path: Path, stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frictionstore.io.owned.exchange", lambda a, b: False)
    target, theirs = tmp_path / "x.zarr", tmp_path / "x.zarr.replaced"
    shutil.copytree(stores[1], target)
    put_folder(theirs, stores)
    with pytest.raises(StoreError, match=r"x\.zarr\.replaced is in the way"):
        pull(stores[0], target, overwrite=True)
    assert everything(theirs) == {"notes.txt": b"precious"}
    assert making.content(target) == making.content(stores[1])
    theirs.rename(tmp_path / "mine")
    pull(stores[0], target, overwrite=True)
    assert verify(target).ok
    assert sorted(os.listdir(tmp_path)) == ["mine", "x.zarr"]
