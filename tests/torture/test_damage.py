"""Flipped bits, lost and swapped files, changed metadata, random bytes: the right answer or one
sentence, never wrong numbers."""

from __future__ import annotations

import copy as copying
import hashlib
import itertools
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.check.verify import verify
from frictionstore.cli.main import cli
from frictionstore.errors import FrictionstoreError, StoreError
from frictionstore.share.pack import pack
from tests import making
from tests.torture.processes import one_sentence

N = 80
PATIENCE = 20  # seconds after which something is said to hang


@contextmanager
def patience(what: object) -> Iterator[None]:
    """Fail where something takes too long."""

    def ring(*_: object) -> None:
        raise AssertionError(f"hung: {what}")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sound") / "x.zarr"
    making.write(target, making.plan(0, N))
    return target


@pytest.fixture(scope="module")
def right() -> dict[str, np.ndarray]:
    return making.rows(making.plan(0, N))


def read_all(location: Path, right: dict[str, np.ndarray]) -> bool:
    """Whether everything reads, with the right numbers; False for one sentence.

    Wrong numbers, other exceptions and messages of several lines fail the test.
    """
    found: dict[str, np.ndarray] = {}
    try:
        store = fs.open(location)
        for name in store.maps:
            found[name] = store.read(name, slice(0, store.n_images))
        found["label"], found["image_id"] = store.labels, store.image_ids
    except FrictionstoreError as error:
        said = str(error)
    else:
        for name, values in found.items():
            assert values.shape == right[name].shape, name
            assert (values == right[name]).all(), f"wrong numbers in {name}"
        return True
    assert said
    assert len(said.splitlines()) == 1
    return False


def is_found(location: Path) -> bool:
    """Whether `verify` says that something is wrong."""
    try:
        return not verify(location).ok
    except StoreError:
        return True


def run(*arguments: str) -> int:
    """A command's exit status; anything but an answer or one sentence fails the test."""
    with patience(arguments):
        result = CliRunner().invoke(cli, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), (
        arguments, result.exception, result.exc_info,
    )  # fmt: skip
    assert result.exit_code in (0, 1, 2), result.output
    assert "\x1b" not in result.output
    if result.exit_code == 2:
        one_sentence(result.stderr)
    return result.exit_code


# ---- flipped bits ----------------------------------------------------------------------------


def test_flipped_bits(
    sound: Path, right: dict[str, np.ndarray], counts: Counter[str], full: bool, seed: int
) -> None:
    """A random bit of every file in turn, until a thousand fell where numbers are read from."""
    rng = np.random.default_rng([seed, 10])
    keys = sorted(making.content(sound))
    left = 1000 if full else 50
    for key in itertools.cycle(keys):
        if not left:
            break
        path = sound / key
        before = path.read_bytes()
        data = bytearray(before)
        bit = int(rng.integers(8 * len(data)))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            with patience((key, bit)):
                reads, found = read_all(sound, right), is_found(sound)
        finally:
            path.write_bytes(before)
        assert found, (key, bit)
        if "/c/" in key or key == "zarr.json":
            assert not reads, (key, bit)
            left -= 1
            counts["flipped bits in shards and zarr.json"] += 1
            counts["flipped bits in shards and zarr.json: found by verify, found by reading"] += 1
        else:
            # the arrays' own metadata, and the hashes in the manifest, are no part of any number
            how = "the numbers read right" if reads else "found by reading"
            counts["flipped bits in other files"] += 1
            counts[f"flipped bits in other files: found by verify, {how}"] += 1


def test_flipped_bits_in_a_zip(
    sound: Path,
    tmp_path: Path,
    right: dict[str, np.ndarray],
    counts: Counter[str],
    full: bool,
    seed: int,
) -> None:
    archive = Path(pack(sound, tmp_path / "x.zip").target)
    original = archive.read_bytes()
    rng = np.random.default_rng([seed, 11])
    for _ in range(1000 if full else 50):
        data = bytearray(original)
        bit = int(rng.integers(8 * len(data)))
        data[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(data)
        with patience(bit):
            reads = read_all(archive, right)
        counts["flipped bits in a zip"] += 1
        counts[f"flipped bits in a zip: {'right numbers' if reads else 'one sentence'}"] += 1


# ---- files -----------------------------------------------------------------------------------


def truncate(path: Path, rng: np.random.Generator) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(1, len(data)))])


def empty(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(b"")


def remove(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


def lengthen(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes() + rng.bytes(int(rng.integers(1, 100))))


def randomise(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(rng.bytes(path.stat().st_size))


def make_folder(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    path.mkdir()


def swap(path: Path, rng: np.random.Generator) -> None:
    """With the same file of another unit, or the array beside it."""
    parts = path.as_posix().split("/")
    unit = parts.index("c") + 1 if "c" in parts else None
    if unit is not None:
        parts[unit] = str((int(parts[unit]) + 1) % 5)
    else:
        parts[-2] = {"S": "friction", "friction": "S"}.get(parts[-2], parts[-2])
    other = Path("/".join(parts))
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


def swap_maps(path: Path, rng: np.random.Generator) -> None:
    """With the file of another map, of the same shape and type."""
    text = path.as_posix()
    other = Path(
        text.replace("/S/", "/friction/") if "/S/" in text else text.replace("/friction/", "/S/")
    )
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


@pytest.mark.parametrize(
    "harm", [truncate, empty, remove, lengthen, randomise, make_folder, swap, swap_maps]
)
def test_harmed_files(
    sound: Path,
    tmp_path: Path,
    right: dict[str, np.ndarray],
    counts: Counter[str],
    full: bool,
    seed: int,
    harm: Callable[[Path, np.random.Generator], None],
) -> None:
    """Every file of the store in turn."""
    rng = np.random.default_rng([seed, 12])
    keys = sorted(making.content(sound))
    if not full:
        keys = [str(key) for key in rng.choice(keys, 8, replace=False)]
    for key in keys:
        store = tmp_path / "x.zarr"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(sound, store)
        before = making.content(store)
        harm(store / key, rng)
        if making.content(store) == before:
            continue
        with patience((harm, key)):
            reads, found = read_all(store, right), is_found(store)
        assert found, (harm, key)
        assert not reads or "/c/" not in key or harm is lengthen, (harm, key)
        for command in (("info",), ("verify",), ("verify", "--quick"), ("pack",)):
            run(command[0], str(store), *command[1:])
        store.with_suffix(".zarr.zip").unlink(missing_ok=True)
        name = harm.__name__.replace("_", " ")
        counts[f"files, {name}: found by verify"] += 1
        counts[f"files, {name}: {'right numbers' if reads else 'one sentence'}"] += 1


# ---- metadata --------------------------------------------------------------------------------

WRONG: list[Any] = [
    None, True, -1, 0, 1.5, 10**15, 10**400, float("nan"), "text", "", [], {}, [1, 2, 3],
    {"a": 1}, [[[]]], "\x1b[31m", "../../etc/passwd",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every field of a JSON value."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any, *, drop: bool) -> Any:
    made = copying.deepcopy(document)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return made


def reseal(store: Path) -> None:
    """Make the manifest fit the files: what a careful attacker would do."""
    lines = []
    for line in (store / "MANIFEST.sha256").read_text().splitlines():
        key = line.split("  ")[1]
        lines.append(f"{hashlib.sha256((store / key).read_bytes()).hexdigest()}  {key}\n")
    (store / "MANIFEST.sha256").write_text("".join(lines))


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "resealed"])
@pytest.mark.parametrize("key", ["zarr.json", "friction/zarr.json", "provenance.json"])
def test_changed_metadata(
    sound: Path,
    tmp_path: Path,
    right: dict[str, np.ndarray],
    counts: Counter[str],
    full: bool,
    seed: int,
    key: str,
    sealed: bool,
) -> None:
    """Every field removed, and given a wrong type, with and without a manifest that fits."""
    rng = np.random.default_rng([seed, 13])
    store = tmp_path / "x.zarr"
    shutil.copytree(sound, store)
    listing = (store / "MANIFEST.sha256").read_bytes()
    original = (store / key).read_bytes()
    document = json.loads(original)
    cases: list[tuple[tuple[Any, ...], Any, bool]] = []
    for path in places(document):
        cases.append((path, None, True))
        for number in rng.choice(len(WRONG), 3, replace=False):
            cases.append((path, WRONG[number], False))
    if not full:
        cases = [cases[k] for k in rng.choice(len(cases), min(25, len(cases)), replace=False)]
    for path, value, drop in cases:
        (store / key).write_text(json.dumps(changed(document, path, value, drop=drop)))
        (store / "MANIFEST.sha256").write_bytes(listing)
        if sealed:
            reseal(store)
        with patience((key, path, value)):
            reads = read_all(store, right)
            if key != "provenance.json" and not sealed:
                assert is_found(store), (path, value)
        code = run("info", str(store), "--json")
        assert code == 0 or not reads or key == "provenance.json"
        run("info", str(store))
        run("verify", str(store))
        counts[f"fields of {key}: changed"] += 1
        counts[f"fields of {key}: {'right numbers' if reads else 'one sentence'}"] += 1


def test_metadata_made_to_hurt(
    sound: Path, tmp_path: Path, right: dict[str, np.ndarray], counts: Counter[str]
) -> None:
    """Sizes that would fill the memory, nesting that would fill the stack, escapes."""
    store = tmp_path / "x.zarr"
    shutil.copytree(sound, store)
    listing = (store / "MANIFEST.sha256").read_bytes()
    document = json.loads((store / "zarr.json").read_bytes())
    texts: list[bytes] = [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 400 + b"]" * 400,
        b'{"attributes": ' + b'{"x":' * 990 + b"1" + b"}" * 991,
        b"1" * 100_000,
        b'{"zarr_format": 3, "attributes": {"frictionstore": {"format": ' + b"9" * 5000 + b"}}}",
        b"\xff\xfe\x00",
        b"",
        b"null",
        b"NaN",
        b'"\\ud800"',
        json.dumps({**document, "attributes": {"frictionstore": {}}}).encode(),
    ]
    for huge in (10**6, 10**9, 10**12, 10**15, 2**39, 2**40, 2**63, 10**30):
        made = copying.deepcopy(document)
        arrays = made["consolidated_metadata"]["metadata"]
        for entry in arrays.values():
            entry["shape"][0] = huge
        texts.append(json.dumps(made).encode())
        for entry in arrays.values():  # and one shard that would hold them all
            entry["chunk_grid"]["configuration"]["chunk_shape"][0] = huge
        texts.append(json.dumps(made).encode())
        for entry in arrays.values():
            entry["codecs"][0]["configuration"]["chunk_shape"][0] = huge
        texts.append(json.dumps(made).encode())
        made = copying.deepcopy(document)
        arrays = made["consolidated_metadata"]["metadata"]
        for name in ("S", "friction", "settle"):
            for shape in (
                arrays[name]["shape"],
                arrays[name]["chunk_grid"]["configuration"]["chunk_shape"],
                arrays[name]["codecs"][0]["configuration"]["chunk_shape"],
            ):
                shape[1] = huge
        texts.append(json.dumps(made).encode())
    own = document["attributes"]["frictionstore"]
    for names in (
        ["\x1b[2J\x1b]0;owned\x07", "a\nb", "\u202egod"],
        ["<script>alert(1)</script>", "a" * 100_000, "\ud800"],
    ):
        made = copying.deepcopy(document)
        made["attributes"]["frictionstore"] = {**own, "class_names": names}
        texts.append(json.dumps(made).encode())
    for text in texts:
        (store / "zarr.json").write_bytes(text)
        (store / "MANIFEST.sha256").write_bytes(listing)
        reseal(store)
        with patience(text[:80]):
            reads = read_all(store, right)
        for command in ("info", "verify"):
            run(command, str(store))
        counts["metadata made to hurt"] += 1
        counts[f"metadata made to hurt: {'right numbers' if reads else 'one sentence'}"] += 1


# ---- random bytes ----------------------------------------------------------------------------


def random_bytes(rng: np.random.Generator) -> bytes:
    """Random bytes, now and then with the beginning of something that is read."""
    starts = [
        b"",
        b"",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b'{"',
        b"[[",
        b"\x1f\x8b",
        b"\x80\x02",
    ]
    start = starts[int(rng.integers(len(starts)))]
    return start + rng.bytes(int(rng.integers(0, 4000)))


def test_random_bytes_as_a_store_a_zip_or_a_manifest(
    sound: Path,
    tmp_path: Path,
    right: dict[str, np.ndarray],
    counts: Counter[str],
    full: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng([seed, 14])
    file, folder = tmp_path / "random.zarr", tmp_path / "folder.zarr"
    archive, damaged = tmp_path / "random.zip", tmp_path / "damaged.zarr"
    folder.mkdir()
    shutil.copytree(sound, damaged)
    listing = (damaged / "MANIFEST.sha256").read_bytes()
    for _ in range(300 if full else 10):
        data = random_bytes(rng)
        file.write_bytes(data)
        archive.write_bytes(data)
        (folder / "zarr.json").write_bytes(data)
        (folder / "MANIFEST.sha256").write_bytes(random_bytes(rng))
        (damaged / "MANIFEST.sha256").write_bytes(data)
        for location in (file, archive, folder, damaged):
            with patience(location):
                assert not read_all(location, right)
            for command in ("info", "verify"):
                assert run(command, str(location)) == 2
            counts["random bytes as a store, a zip or a manifest: one sentence"] += 1
        assert run("unpack", str(archive), "--out", str(tmp_path / "out.zarr")) == 2
        assert not list(tmp_path.glob("out.zarr*"))
    for _ in range(300 if full else 10):
        lines = bytearray(listing)
        for _ in range(int(rng.integers(1, 4))):
            lines[int(rng.integers(len(lines)))] = int(rng.integers(256))
        if bytes(lines) == listing:
            continue
        (damaged / "MANIFEST.sha256").write_bytes(lines)
        assert is_found(damaged)
        counts["changed manifests: found by verify"] += 1


def test_random_bytes_as_a_journal(
    tmp_path: Path, counts: Counter[str], full: bool, seed: int
) -> None:
    """The remains of a run, harmed before it is resumed: the right bytes or one sentence."""
    from frictionstore.store.writer import StoreWriter, partial_path

    made = making.plan(0, N)
    reference = tmp_path / "reference.zarr"
    making.write(reference, made)
    expected = making.content(reference)
    half = tmp_path / "half.zarr"
    with StoreWriter(half, made) as writer:
        for number in (0, 1, 3):
            writer.write_unit(number, making.unit_arrays(made, number), {})
    rng = np.random.default_rng([seed, 15])
    remains = partial_path(half)
    keys = sorted(p.relative_to(remains).as_posix() for p in remains.rglob("*") if p.is_file())
    harms = [truncate, empty, remove, lengthen, randomise]
    target = tmp_path / "x.zarr"
    for _ in range(300 if full else 10):
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(partial_path(target), ignore_errors=True)
        shutil.copytree(remains, partial_path(target))
        key = keys[int(rng.integers(len(keys)))]
        harm = harms[int(rng.integers(len(harms)))]
        harm(partial_path(target) / key, rng)
        try:
            making.write(target, made)
            outcome = "the right bytes"
        except StoreError:
            outcome = "one sentence"
            assert not target.exists()
            making.write(target, made, overwrite=True)
        assert making.content(target) == expected, (key, harm)
        counts[f"harmed remains of a run: {outcome}"] += 1


def test_random_bytes_as_a_checkpoint(
    tmp_path: Path, counts: Counter[str], full: bool, seed: int
) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng([seed, 16])
    for number in range(100 if full else 6):
        path = tmp_path / f"encoder{('.pt', '.safetensors')[number % 2]}"
        path.write_bytes(random_bytes(rng))
        code = run(
            "extract", "--dataset", "noise", "--count", "2", "--encoder", str(path),
            "--device", "cpu", "--out", str(tmp_path / "x.zarr"),
        )  # fmt: skip
        assert code == 2
        assert not list(tmp_path.glob("x.zarr*"))
        counts["random bytes as a checkpoint: one sentence"] += 1


# ---- text of a store on a terminal -----------------------------------------------------------


def test_text_of_a_store_cannot_act(tmp_path: Path, counts: Counter[str]) -> None:
    """Class names and ids with escapes, through every command that prints them."""
    nasty = ["\x1b[2J\x1b]0;owned\x07", "a\r\nb", "\u202egod\u0000"]
    rng = np.random.default_rng(0)
    maps = {"friction": rng.random((6, 2, 2, 3)), "settle": rng.integers(0, 5, (6, 2, 2, 3))}
    ids = [f"\x1b[{k}m\x9b31m.png" for k in range(6)]
    fs.from_arrays(
        tmp_path / "a.zarr", maps, label=np.arange(6) % 3, class_names=nasty, image_id=ids
    )
    maps["friction"] = maps["friction"] * 2
    fs.from_arrays(
        tmp_path / "b.zarr", maps, label=np.arange(6) % 3, class_names=nasty[::-1],
        image_id=[*ids[:5], "\x1b[5n"],
    )  # fmt: skip
    a, b = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    for arguments in (
        ("info", a), ("verify", a), ("diff", a, b), ("pack", a), ("push", a, str(tmp_path / "p")),
        ("subset", a, "--classes", "\x1b[31mno", "--out", str(tmp_path / "s.zarr")),
        ("merge", a, a, "--out", str(tmp_path / "m.zarr")),
        ("info", str(tmp_path / "\x1b[31mno.zarr")),
        ("pull", f"{a}.none\x1b[31m", str(tmp_path)),
    ):  # fmt: skip
        result = CliRunner().invoke(cli, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), arguments
        for character in ("\x1b", "\x9b", "\x07", "\r", "\u202e", "\x00"):
            assert character not in result.output, arguments
        counts["hostile text: printed as text"] += 1
    card = (tmp_path / "p/a.zarr/README.md").read_text()
    assert "\x1b" not in card
    assert "\u202e" not in card
