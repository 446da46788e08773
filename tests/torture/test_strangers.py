"""Stores and servers of strangers: nothing is believed that was not compared, no link is followed,
nothing waits, and memory is bounded by what there is."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.cli.main import cli
from frictionstore.errors import FrictionstoreError, RequestError, StoreError
from tests import making
from tests.servers.http import serve
from tests.support import DATA
from tests.torture.forging import blosc, crc, packed, plant, reseal, sealed_shard, zstd_frame
from tests.torture.test_damage import patience, run

N = 40  # images, in shards of 16 with one chunk each
SIZE = 16 * 4 * 4 * 4 * 4  # bytes of one decoded chunk of S
S, IDS = "S/c/0/0/0/0", "image_id/c/0"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sound") / "x.zarr"
    making.write(target, making.plan(0, N))
    return target


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "x.zarr"))


def sentence(action: Callable[[], object]) -> str:
    """What an action that must be refused says."""
    with pytest.raises(FrictionstoreError) as caught:
        action()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- what compressed bytes claim -------------------------------------------------------------

HONEST = packed(np.sort(np.random.default_rng(0).random((16, 4, 4, 4), np.float32))[..., ::-1])
TEXT = struct.pack("<I", 16) + b"".join(struct.pack("<I", 1) + bytes([65 + k]) for k in range(16))


def raw(data: bytes) -> tuple[int, int, bytes]:
    return 0, len(data), data


def with_word(frame: bytes, place: int, value: int) -> bytes:
    return frame[:place] + struct.pack("<i", value) + frame[place + 4 :]


START = struct.unpack_from("<i", HONEST, 16)[0]
FORGED: dict[str, tuple[str, bytes]] = {
    "stored, and claims more than it has": (S, blosc(b"x" * 10, SIZE, flags=0x93, said=SIZE + 16)),
    "stored, and is shorter than it says it holds": (S, blosc(b"x" * 10, SIZE, flags=0x93)),
    "claims a longer frame": (S, with_word(HONEST, 12, len(HONEST) + 5000)),
    "claims 2 GB": (S, blosc(HONEST[16:], (1 << 31) - 1)),
    "a block that starts behind the frame": (S, with_word(HONEST, 16, len(HONEST) + 4096)),
    "a block that starts before the frame": (S, with_word(HONEST, 16, -4096)),
    "a block longer than the frame": (S, with_word(HONEST, START, 1 << 20)),
    "a block of a negative length": (S, with_word(HONEST, START, -8)),
    "blocks of one byte": (S, blosc(HONEST[16:], SIZE, block=1)),
    "blocks of no byte": (S, blosc(HONEST[16:], SIZE, block=0)),
    "another compressor": (S, blosc(HONEST[16:], SIZE, flags=0x31)),
    "values of another size": (S, blosc(HONEST[16:], SIZE, typesize=8)),
    "shorter than a header": (S, b"\2\1\x91"),
    "text of 4 GB": (IDS, zstd_frame(1 << 32, [raw(TEXT[:10]), (1, 1 << 17, b"a"), raw(b"")])),
    "text of a size that is not said": (IDS, zstd_frame(None, [raw(TEXT)])),
    "two texts in a row": (IDS, 2 * zstd_frame(len(TEXT), [raw(TEXT)])),
    "text that is cut": (IDS, zstd_frame(len(TEXT), [raw(TEXT)])[:-3]),
    "four milliard texts": (IDS, zstd_frame(8, [raw(struct.pack("<II", 0xFFFFFFFF, 0))])),
    "a text longer than all": (IDS, zstd_frame(8, [raw(struct.pack("<II", 16, 0x7FFFFFFF))])),
    "no text at all": (IDS, zstd_frame(0, [raw(b"")])),
}

ATTACKED = """
import json, sys
from pathlib import Path
import frictionstore as fs
from frictionstore.errors import FrictionstoreError
for place in sys.argv[1:]:
    said = {}
    def note(what, action):
        try:
            said[what] = str(action())[:200]
        except FrictionstoreError as error:
            said[what] = "refused: " + str(error)
    note("verify", lambda: "sound" if fs.verify(place, threads=2).ok else "refused: damaged")
    def read():
        store = fs.open(place)
        for name in store.keys():
            store.read(name, slice(0, store.n_images))
        store.image_ids
    note("read", read)
    note("part", lambda: [fs.open(place).read(name, slice(0, 3)) for name in ("S", "image_id")])
    note("subset", lambda: fs.subset(place, place + ".subset.zarr", overwrite=True))
    said["left"] = [p.name for p in Path(place).parent.glob("*.subset.zarr*")]
    # getrusage would count the parent's memory before exec too
    said["rss"] = 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    print(place + chr(9) + json.dumps(said), flush=True)
"""
BASE_BYTES = 350 << 20  # Python, numpy and zarr


def attacked(places: list[Path]) -> dict[str, dict[str, Any]]:
    """What a process of its own says to stores, one after another."""
    done = subprocess.run(
        [sys.executable, "-c", ATTACKED, *map(str, places)], capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    found = {line.split("\t")[0]: json.loads(line.split("\t")[1]) for line in
             done.stdout.splitlines()}  # fmt: skip
    assert done.returncode == 0, (done.returncode, list(found), done.stderr[-2000:])
    return found


def assert_refused(found: dict[str, Any], *ways: str) -> None:
    for way in ways or ("verify", "read", "part", "subset"):
        assert found[way].startswith("refused: "), (way, found)
    assert found["left"] == [], found
    assert found["rss"] < BASE_BYTES, found


def test_forged_frames(sound: Path, tmp_path: Path, counts: Counter[str]) -> None:
    """Verify, reading all, reading a part and copying, each before a decoder sees the frame."""
    places = []
    for number, (key, frame) in enumerate(FORGED.values()):
        place = Path(shutil.copytree(sound, tmp_path / f"{number:02d}.zarr"))
        plant(place, key, sealed_shard([frame], 1))
        places.append(place)
    honest = Path(shutil.copytree(sound, tmp_path / "honest.zarr"))
    plant(honest, S, sealed_shard([HONEST], 1))
    for place in (honest,):
        assert fs.verify(place).ok
        assert np.isfinite(fs.open(place).S[:16]).all()
    found = attacked(places)
    for number, (what, (key, _)) in enumerate(FORGED.items()):
        said = found[str(places[number])]
        assert_refused(said, "verify", "read", "subset", "part")
        assert key in said["read"] + said["part"], (what, said)
        counts["frames that claim what is not so: one sentence"] += 4


def test_random_lengths_in_frames(
    sound: Path, tmp_path: Path, counts: Counter[str], full: bool, seed: int
) -> None:
    """Any word of a frame's header and tables: one sentence or numbers of the right shape."""
    rng = np.random.default_rng([seed, 40])
    place = Path(shutil.copytree(sound, tmp_path / "x.zarr"))
    for _ in range(400 if full else 20):
        where = int(rng.choice([*range(0, 21), *range(START, START + 12)]))
        value = int(rng.choice([0, 1, -1, 1 << 30, -(1 << 30), int(rng.integers(-999, 9999))]))
        plant(place, S, sealed_shard([with_word(HONEST, where, value)], 1))
        with patience((where, value)):
            fs.verify(place)
            try:
                assert fs.open(place).read("S", slice(0, 16)).shape == (16, 4, 4, 4)
            except StoreError:
                counts["words of frames changed: one sentence"] += 1
        counts["words of frames changed"] += 1


def test_an_index_that_names_bytes_twice(tmp_path: Path, counts: Counter[str]) -> None:
    """The same chunk for every place of a shard would be decoded as often as it is named."""
    maps = {"friction": np.ones((64, 64, 64, 4), np.float32)}  # chunks of 16 images
    target = tmp_path / "x.zarr"
    fs.from_arrays(target, maps, shard_images=64)
    chunk = packed(np.ones((16, 64, 64, 4), np.float32))
    for entries in (
        [(0, len(chunk) + 4)] * 4,
        [(0, len(chunk) + 4), (0, len(chunk) + 4)] + [(len(chunk) + 4, len(chunk) + 4)] * 2,
    ):
        plant(target, "friction/c/0/0/0/0", sealed_shard([chunk, chunk], 4, entries))
        said = sentence(lambda: fs.open(target).read("friction", slice(0, 64)))
        assert "more than one chunk" in said
        assert "more than one chunk" in sentence(lambda: fs.open(target).friction[:3])
        assert "more than one chunk" in fs.verify(target).damage[0].what
        counts["index entries that overlap: one sentence"] += 3
    plant(target, "friction/c/0/0/0/0", sealed_shard([chunk] * 4, 4))
    assert fs.verify(target).ok
    size = len(chunk) + 4  # in another order on disk, and with a gap: not what we write, but sound
    places = [(3 * size, size), (0, size), (size, size), (4 * size, size)]
    plant(target, "friction/c/0/0/0/0", sealed_shard([chunk] * 5, 4, places))
    assert fs.verify(target).ok


# ---- what metadata claim ---------------------------------------------------------------------


def test_equal_ids_do_not_fill_the_memory(
    tmp_path: Path, counts: Counter[str], full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids that differ cannot be so many in so few bytes."""
    from frictionstore.format.plan import StorePlan
    from frictionstore.store.writer import StoreWriter

    n = (1 << 21) if full else (1 << 17)
    rows = {"settle": (1, 1, 1)}
    plan = StorePlan({"kind": "test", "maps": {"settle": "uint8"}}, n, rows, n, [])
    target = tmp_path / "x.zarr"
    with StoreWriter(target, plan) as writer:
        writer.write_unit(
            0,
            {
                "settle": np.zeros((n, 1, 1, 1), np.uint8),
                "label": np.full(n, -1, np.int32),
                "image_id": np.full(n, "a" * 400, object),
            },
            {},
        )
        writer.finalise({})
    assert (target / "image_id/c/0").stat().st_size < 12_000
    found = attacked([target])[str(target)]
    assert_refused(found, "verify", "read", "subset")
    assert f"image_id of {n:,} images cannot be" in found["read"]
    counts["equal ids in no space: one sentence"] += 3


@pytest.mark.parametrize("pattern", ["{}", "{:07d}", "train/cat/{:06d}.png", "x{:x}"])
def test_ids_that_shrink_most_are_still_read(tmp_path: Path, pattern: str) -> None:
    """The bounds are above what honest ids reach."""
    n = 1 << 15
    ids = [pattern.format(k) for k in range(n)]
    maps = {"settle": np.zeros((n, 1, 1, 1), np.uint8)}
    store = fs.from_arrays(tmp_path / "x.zarr", maps, image_id=ids, shard_images=n)
    assert store.image_ids.tolist() == ids
    assert fs.verify(store.location).ok


def test_long_ids_and_constant_maps_are_still_read(tmp_path: Path) -> None:
    """Nothing shrinks more: ids of one long beginning, a map of one value, one large image."""
    ids = ["x" * 4089 + f"{k:07d}" for k in range(3000)]
    maps = {"settle": np.full((3000, 8, 8, 16), 3, np.uint8)}
    store = fs.from_arrays(tmp_path / "a.zarr", maps, image_id=ids)
    assert store.image_ids.tolist() == ids
    assert fs.verify(store.location).ok
    large = {"settle": np.zeros((2, 2048, 2048, 4), np.uint8)}
    store = fs.from_arrays(tmp_path / "b.zarr", large)
    assert store.settle[1].max() == 0
    assert [rows.stop for rows, _ in store.iter_chunks("settle")] == [1, 2]
    assert fs.verify(store.location).ok


def test_one_long_id_does_not_widen_all(tmp_path: Path) -> None:
    n = 20_000
    ids = [f"{k}" for k in range(n - 1)] + ["y" * 4000]
    maps = {"settle": np.zeros((n, 1, 1, 1), np.uint8)}
    found = fs.from_arrays(tmp_path / "x.zarr", maps, image_id=ids).image_ids
    assert found.tolist() == ids
    assert found.nbytes < 1 << 20, "text of one width would take 320 MB"
    short = fs.from_arrays(
        tmp_path / "y.zarr", {"settle": maps["settle"][:5]}, image_id=ids[:5]
    )  # fmt: skip
    assert short.image_ids.dtype.kind == "U"


def huge(*shape: int) -> Callable[[dict[str, Any]], None]:
    """Metadata whose S claims images of this shape, in shards and chunks that fit."""

    def change(document: dict[str, Any]) -> None:
        for name in ("S", "friction", "settle"):
            entry = document["consolidated_metadata"]["metadata"][name]
            sharding = entry["codecs"][0]["configuration"]
            entry["shape"] = [N, *shape]
            entry["chunk_grid"]["configuration"]["chunk_shape"] = [16, *shape]
            item = 1 if name == "settle" else 4
            rows = max((1 << 20) // (item * int(np.prod(shape))), 1)
            chunk = min(1 << (rows.bit_length() - 1), 16)
            sharding["chunk_shape"] = [chunk, *shape]
            own = document["attributes"]["frictionstore"]
            for unit in range(3):
                key = f"{name}/c/{unit}/0/0/0"
                chunks = -(-min(16, N - 16 * unit) // chunk)
                own["shard_crc32c"][key] = "00000000" * (chunks + 1)

    return change


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((4096, 2048, 16), "more than 268,435,456 bytes"),  # one image
        ((2048, 2048, 8), "more than 1,073,741,824 bytes"),  # one shard
        ((512, 512, 8), "cannot be: it takes"),  # for files that small
    ],
)
def test_shapes_beyond_the_files(
    store: Path, shape: tuple[int, ...], said: str, counts: Counter[str]
) -> None:
    reseal(store, huge(*shape))
    assert said in sentence(lambda: fs.open(store))
    assert not fs.verify(store).ok
    counts["shapes beyond the files: one sentence"] += 1


def array(name: str, *path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner = document["consolidated_metadata"]["metadata"][name]
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


def group(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


CODECS = ("codecs", 0, "configuration", "codecs")
SCALE = {
    "name": "numcodecs.fixedscaleoffset",
    "configuration": {"scale": 10, "offset": 0, "dtype": "<f4"},
}
FOREIGN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "big-endian": (array("S", *CODECS, 0, "configuration", "endian", value="big"), "big"),
    "scaled": (array("friction", *CODECS, 0, value=SCALE), "fixedscaleoffset"),
    "gzip": (array("settle", *CODECS, 1, value={"name": "gzip"}), "gzip"),
    "no checksum of the index": (
        array("S", "codecs", 0, "configuration", "index_codecs", value=[{"name": "bytes"}]),
        "index_codecs",
    ),
    "index first": (
        array("S", "codecs", 0, "configuration", "index_location", value="start"), "start",
    ),
    "scale_factor": (array("S", "attributes", "scale_factor", value=2.0), "scale_factor"),
    "add_offset": (array("S", "attributes", "add_offset", value=1.0), "add_offset"),
    "_FillValue": (array("settle", "attributes", "_FillValue", value=3), "_FillValue"),
    "other units": (array("S", "attributes", "units", value="days since 1970-01-01"), "units"),
    "no description": (array("S", "attributes", "description", value=None), "description"),
    "a transformer": (
        array("S", "storage_transformers", value=[{"name": "x"}]), "storage_transformers",
    ),
    "an unknown field": (array("S", "extra", value={"must_understand": False}), "extra"),
    "true instead of one": (array("S", "zarr_format", value=3.0), "zarr_format"),
    "attributes of others": (group("attributes", "coordinates", value="S"), "coordinates"),
    "a field of the group": (group("extra", value=1), "extra"),
    "a field of the index of arrays": (
        group("consolidated_metadata", "kind", value="other"), "kind",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_metadata_the_writer_does_not_write(
    store: Path, what: str, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr and xarray act on each of these: other numbers, without a word."""
    change, named = FOREIGN[what]
    reseal(store, change)
    assert named in sentence(lambda: fs.open(store))
    assert not fs.verify(store).ok
    counts["metadata that no writer writes: one sentence"] += 1


def test_a_description_in_other_words_is_no_difference(store: Path) -> None:
    reseal(store, array("S", "attributes", "description", value="as an older version said it"))
    assert fs.open(store).S[:].shape == (N, 4, 4, 4)
    assert fs.verify(store).ok


def test_an_arrays_own_metadata_is_served_from_the_groups(store: Path) -> None:
    """Who opens the array by itself through the store gets the metadata that were compared."""
    import zarr

    right = fs.open(store).S[:]
    path = store / "S/zarr.json"
    own = json.loads(path.read_bytes())
    own["codecs"][0]["configuration"]["codecs"][0]["configuration"]["endian"] = "big"
    path.write_text(json.dumps(own))
    opened = zarr.open_array(fs.open(store).zarr_store, path="S", mode="r")
    assert (opened[:] == right).all()


@pytest.mark.parametrize(
    "splits", [[{"name": "a", "first": 0, "count": N - 1}], [{"first": 0, "count": N}], ["a"], 7]
)
def test_splits_that_info_cannot_show_are_no_sound_store(store: Path, splits: object) -> None:
    reseal(store, group("attributes", "frictionstore", "splits", value=splits))
    assert "splits does not divide" in sentence(lambda: fs.open(store))
    assert run("info", str(store)) == 2
    assert run("verify", str(store)) == 2


@pytest.mark.parametrize("splits", [[{"name": "a", "first": 0, "count": N - 1}], {"a": 1}, [[]]])
def test_info_says_in_one_sentence_that_splits_are_malformed(store: Path, splits: object) -> None:
    reseal(store, group("attributes", "frictionstore", "splits", value=splits))
    for options in [], ["--json"]:
        done = CliRunner().invoke(cli, ["info", str(store), *options])
        assert done.exit_code == 2, done.output
        assert isinstance(done.exception, SystemExit)
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert "splits does not divide" in done.stderr


# ---- credentials in an address ---------------------------------------------------------------

WITH_CREDENTIALS = [
    "https://anna:geh3im@host/x.zarr", "https://geh3im@host/x.zarr", "//anna:geh3im@host/x.zarr",
    "https:\\\\anna:geh3im@host/x.zarr", "https:///anna:geh3im@host/x.zarr",
    "https:anna:geh3im@host/x.zarr", "ht\ttps://anna:geh3im@host/x.zarr",
    "/\\anna:geh3im@host/x.zarr", " HTTPS://anna:geh3im@host", "s3://anna:ge/geh3im@host/x.zarr",
]  # fmt: skip


@pytest.mark.parametrize("url", WITH_CREDENTIALS)
def test_a_store_url_with_credentials_is_refused_and_repeated_nowhere(
    store: Path, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    out = tmp_path / "site"
    asked = ["view", str(store), "--export", str(out), "--store-url", url]
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 2, done.output
    assert "user name or password" in done.stderr
    assert "geh3im" not in done.output + caplog.text
    assert not out.exists()


@pytest.mark.parametrize(
    "url", ["a@b.zarr", "sub/a@b.zarr", "https://host/a@b.zarr?x=c@d", "../x#@"]
)
def test_a_store_url_whose_path_holds_an_at_sign_is_none(
    store: Path, tmp_path: Path, url: str
) -> None:
    run("view", str(store), "--export", str(tmp_path), "--store-url", url)
    assert url in (tmp_path / "index.html").read_text()


def test_what_results_and_stores_say_of_the_command_holds_no_credentials(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that takes an address of its own may be given credentials by its user."""
    monkeypatch.setattr(sys, "argv", ["mine.py", "--from", "https://anna:geh3im@host/y", "a b"])
    folder = fs.analyses.mode_variance(fs.open(store), feature="S").save(
        tmp_path / "r", figures=False
    )
    said = json.loads((folder / "result.json").read_text())["provenance"]["command"]
    assert said == "mine.py --from https://***@host/y a b"


# ---- links, pipes, zips ----------------------------------------------------------------------

COMPANIONS = ("provenance.json", "README.md")
SECRET = b'{"secret": "of the user, not of the store"}'


def uses(store: Path, out: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "pack", lambda: fs.pack(store, out / "a.zip")
    yield "pull", lambda: fs.pull(str(store), out / "b.zarr")
    yield "push", lambda: fs.push(store, str(out / "c.zarr"))


def linked(store: Path, key: str, secret: Path) -> None:
    (store / key).unlink(missing_ok=True)
    (store / key).symlink_to(secret)


def piped(store: Path, key: str, secret: Path) -> None:
    (store / key).unlink(missing_ok=True)
    os.mkfifo(store / key)


@pytest.mark.parametrize("harm", [linked, piped])
@pytest.mark.parametrize("key", [S, "zarr.json", "MANIFEST.sha256", "S/zarr.json", *COMPANIONS])
def test_only_plain_files_of_the_store_are_read(
    store: Path,
    tmp_path: Path,
    key: str,
    harm: Callable[[Path, str, Path], None],
    counts: Counter[str],
) -> None:
    """A link hands out what it points to, a pipe waits for ever."""
    secret = tmp_path / "secret"
    inside = (store / key).read_bytes() if (store / key).exists() else b""
    secret.write_bytes(inside if key not in COMPANIONS else SECRET)
    out = tmp_path / "out"
    out.mkdir()
    harm(store, key, secret)
    with patience((key, harm)):
        assert run("verify", str(store)) == 2
        for command in ("info", "verify --quick", "diff"):
            name, *more = command.split()
            run(name, str(store), *([str(store)] if name == "diff" else []), *more)
        if key == S:
            said = sentence(lambda: fs.open(store).read("S", slice(0, 3)))
            assert "symbolic link" in said or "not a plain file" in said
            assert run("subset", str(store), "--out", str(out / "s.zarr")) == 2
        for _, use in uses(store, out):
            if key not in ("README.md", "provenance.json"):
                sentence(use)
                continue
            with suppress(FrictionstoreError):
                use()
    copied = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    assert b"of the user" not in copied
    assert secret.read_bytes(), "what the link points to is there still"
    counts["links and pipes in a store: one sentence"] += 1


@pytest.mark.parametrize("harm", [linked, piped])
@pytest.mark.parametrize("key", [S, "zarr.json", "MANIFEST.sha256", "S/zarr.json", *COMPANIONS])
def test_who_writes_over_a_store_reads_plain_files_only(
    sound: Path,
    store: Path,
    tmp_path: Path,
    key: str,
    harm: Callable[[Path, str, Path], None],
    counts: Counter[str],
) -> None:
    """Replacing, repairing and pulling look at what is there before they take its place."""
    secret = tmp_path / "secret"
    secret.write_bytes((store / key).read_bytes() if (store / key).exists() else SECRET)
    before = secret.read_bytes()
    harm(store, key, secret)
    (store / "friction/c/0/0/0/0").write_bytes(b"damaged, so that there is something to repair")
    with patience((key, harm)):
        for use in (
            lambda: making.write(store, making.plan(0, N), repair=True),
            lambda: making.write(store, making.plan(1, N), overwrite=True),
            lambda: fs.pull(str(sound), store, overwrite=True),
        ):
            with suppress(FrictionstoreError):
                use()
    assert secret.read_bytes() == before
    counts["links and pipes in a store that is written over: nothing waits"] += 1


@pytest.mark.parametrize("harm", [linked, piped])
@pytest.mark.parametrize("where", ["plan.json", "journal/unit-000000.json", S, "zarr.json"])
def test_remains_are_taken_up_from_plain_files_only(
    store: Path, tmp_path: Path, where: str, harm: Callable[[Path, str, Path], None]
) -> None:
    target, made = tmp_path / "y.zarr", making.plan(0, N)
    with making.StoreWriter(target, made) as writer:
        writer.write_unit(0, making.unit_arrays(made, 0), {"engine": "test"})
    secret = tmp_path / "secret"
    secret.write_bytes((tmp_path / "y.zarr.partial" / where).read_bytes())
    before = secret.read_bytes()
    harm(tmp_path / "y.zarr.partial", where, secret)
    with patience((where, harm)):
        assert "did not write there" in sentence(lambda: making.write(target, made))
    assert secret.read_bytes() == before


def test_linked_folders(store: Path, tmp_path: Path, counts: Counter[str]) -> None:
    """In the place of an array, beside the arrays, and the store's own name."""
    away = tmp_path / "away"
    shutil.move(store / "friction", away)
    (store / "friction").symlink_to(away)
    assert "symbolic link" in sentence(lambda: fs.open(store).friction[:2])
    report = fs.verify(store)
    assert any("symbolic link" in d.what for d in report.damage)
    assert any(d.file == "friction" for d in report.damage)
    (store / "friction").unlink()
    shutil.move(away, store / "friction")
    assert fs.verify(store).ok
    (store / "more").symlink_to(tmp_path)
    (damage,) = fs.verify(store).damage
    assert (damage.file, damage.what) == ("more", "does not belong to the store")
    (store / "more").unlink()
    (tmp_path / "name.zarr").symlink_to(store)
    assert fs.verify(tmp_path / "name.zarr").ok
    archive = Path(fs.pack(store, tmp_path / "real.zip").target)
    (tmp_path / "name.zip").symlink_to(archive)
    assert fs.open(tmp_path / "name.zip").name == "name"
    assert fs.verify(tmp_path / "name.zip").ok
    counts["linked folders: found by verify, not followed"] += 2


def test_entries_of_a_zip_share_no_bytes(store: Path, tmp_path: Path, counts: Counter[str]) -> None:
    archive = Path(fs.pack(store, tmp_path / "x.zip").target)
    with zipfile.ZipFile(archive) as opened:
        one, other = opened.getinfo(S), opened.getinfo("S/c/1/0/0/0")
    data = archive.read_bytes()
    place = data.index(b"S/c/1/0/0/0", opened.start_dir) - 4
    assert struct.unpack_from("<I", data, place)[0] == other.header_offset
    forged = data[:place] + struct.pack("<I", one.header_offset) + data[place + 4 :]
    archive.write_bytes(forged)
    assert "shares bytes" in sentence(lambda: fs.open(archive))
    # and through the length of what lies before the bytes
    extra = one.header_offset + 28
    archive.write_bytes(data[:extra] + struct.pack("<H", 60_000) + data[extra + 2 :])
    sentence(lambda: fs.open(archive).S[:3])
    assert not fs.verify(archive).ok
    # the name where the bytes are
    name = data.index(b"S/c/0/0/0/0", one.header_offset)
    archive.write_bytes(data[:name] + b"S/c/9" + data[name + 5 :])
    assert "another name" in sentence(lambda: fs.open(archive).S[:3])
    assert not fs.verify(archive).ok
    counts["zips with entries on each other or under two names: one sentence"] += 3


# ---- servers ---------------------------------------------------------------------------------


@contextmanager
def bad_server(how: str) -> Iterator[tuple[str, list[int]]]:
    """Endless bodies, answers without a length, redirects in a circle; bytes that were sent."""
    sent = [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def do_GET(self, body: bool = True) -> None:
            if how == "circle":
                self.send_response(302)
                self.send_header("Location", self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if self.headers.get("Range") else 200)
            self.send_header("Transfer-Encoding", "chunked")
            if self.headers.get("Range"):
                self.send_header("Content-Range", "bytes 0-99/1000")
            if how == "endless":
                self.send_header("Content-Length", "100")
            self.end_headers()
            if not body:
                return
            try:
                for _ in range(1 if how == "no length" else 400):
                    self.wfile.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
                    sent[0] += 1 << 20
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/x.zarr", sent
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("endless", "sends more than the 100 bytes"),
        ("no length", "does not say how long"),
        ("circle", "from address to address"),
    ],
)
def test_bad_answers(how: str, said: str, counts: Counter[str]) -> None:
    from frictionstore.io.locate import locate

    with bad_server(how) as (url, sent), patience(how):
        for action in (lambda: fs.open(url), lambda: fs.verify(url)):
            assert said in sentence(action)
        if how == "endless":
            assert said in sentence(lambda: locate(url).read_range("S/c/0", 0, 100))
            assert sent[0] < 150 << 20
    counts["bad answers of servers: one sentence"] += 2


@pytest.mark.parametrize("what", ["cut", "no ranges", "500"])
def test_a_bad_connection_is_no_damage(sound: Path, what: str) -> None:
    """The store is sound; a repair would be the wrong advice."""
    with serve(sound.parent) as (url, how):
        address = f"{url}/x.zarr"
        assert fs.verify(address).ok
        if what == "cut":
            how.truncate = 30
        elif what == "no ranges":
            how.ranges = False
        else:
            how.status = {S: 500}
        said = sentence(lambda: fs.verify(address))
        assert "damaged" not in said
        assert "repair" not in said


# ---- what is written ------------------------------------------------------------------------

MAPS = {"settle": np.zeros((3, 1, 1, 1), np.uint8)}


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a", "", "c"], "must not be empty"),
        (["a", "a\0", "c"], "NUL"),
        (["a", "b\udcff", "c"], "surrogate"),
        (["a", "b", "a"], "twice"),
        (["a", "b", "c" * 5000], "4,096 bytes"),
        (["a", "b", "\u00e9" * 2049], "4,096 bytes"),
    ],
)
def test_ids_that_no_reader_gives_back(tmp_path: Path, ids: list[str], said: str) -> None:
    target = tmp_path / "x.zarr"
    assert said in sentence(lambda: fs.from_arrays(target, MAPS, image_id=ids))
    assert not list(tmp_path.iterdir())


def test_ids_of_an_old_store_are_checked_when_they_are_copied(tmp_path: Path) -> None:
    """Stores that were written before ids were checked."""
    from frictionstore.format.plan import StorePlan
    from frictionstore.store.writer import StoreWriter

    for name, ids in (("a", ["x", "x\0", "y"]), ("b", ["p", "q", "r"])):
        plan = StorePlan({"kind": "test"}, 3, {"settle": (1, 1, 1)}, 4, [])
        with StoreWriter(tmp_path / f"{name}.zarr", plan) as writer:
            arrays = {**MAPS, "label": np.full(3, -1, np.int32)}
            writer.write_unit(0, {**arrays, "image_id": np.array(ids, object)}, {})
            writer.finalise({})
    assert fs.open(tmp_path / "a.zarr").image_ids.tolist() == ["x", "x\0", "y"]
    assert "NUL" in sentence(lambda: fs.subset(tmp_path / "a.zarr", tmp_path / "s.zarr"))
    both = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    assert "NUL" in sentence(lambda: fs.merge(both, tmp_path / "m.zarr", names=["1", "2"]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


def test_files_whose_names_become_one_id(tmp_path: Path) -> None:
    """A name that is no UTF-8 is escaped, and the escape may be another file's name."""
    pytest.importorskip("torch")
    from PIL import Image

    from frictionstore.extract.job import run_job
    from frictionstore.extract.request import Job

    for name in (b"a\xff.png", b"a\\xff.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            Image.new("RGB", (64, 64)).save(file, "PNG")
    job = Job(
        f"folder:{tmp_path}", str(DATA / "svae/svae_d4.pt"), tmp_path / "out/x.zarr", device="cpu"
    )
    assert "twice" in sentence(lambda: run_job(job))
    assert not list(tmp_path.glob("out/*"))


def test_two_classes_of_one_name_stay_two(tmp_path: Path) -> None:
    label, names = np.array([0, 1, 2]), ["a", "b", "a"]
    fs.from_arrays(tmp_path / "x.zarr", MAPS, label=label, class_names=names)
    part = fs.subset(tmp_path / "x.zarr", tmp_path / "y.zarr", classes=["a"])
    assert part.class_names == ["a", "a"]
    assert part.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("label", "names", "said"),
    [
        ([5_000_000, 0, 0], None, "as many classes"),
        ([0, 0, 0], ["\udcff", "b"], "surrogate"),
        ([0, 0, 0], ["b" * (65 << 20)], "bytes of metadata"),
    ],
)
def test_what_no_reader_takes_is_not_written(
    tmp_path: Path, label: list[int], names: list[str] | None, said: str
) -> None:
    target = tmp_path / "x.zarr"
    action = lambda: fs.from_arrays(target, MAPS, label=label, class_names=names)  # noqa: E731
    assert said in sentence(action)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bound", ["LARGEST_CHUNK_BYTES", "LARGEST_UNIT_BYTES"])
def test_an_image_no_reader_takes_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    from frictionstore.format import header

    monkeypatch.setattr(header, bound, 1 << 10)
    maps = {"settle": np.zeros((4, 32, 32, 2), np.uint8)}
    assert "no reader would take" in sentence(lambda: fs.from_arrays(tmp_path / "x.zarr", maps))
    assert not list(tmp_path.iterdir())


# ---- untrusted mirrors -----------------------------------------------------------------------


def test_a_forged_shard_is_found_where_all_is_verified_first(store: Path) -> None:
    """Same checksums, other bytes: reading compares CRC-32C, and that anyone can make fit."""

    path = store / S
    data = bytearray(path.read_bytes())
    right = fs.open(store).S[:16]
    # a frame that stores its values as they are, so that any bytes in it decode
    stored = bytearray(blosc(right.tobytes(), SIZE, flags=0x93))
    plant(store, S, sealed_shard([bytes(stored)], 1))
    data = bytearray(path.read_bytes())
    forge_crc(data, 16 + 64, 16 + SIZE)
    path.write_bytes(data)
    wrong = fs.open(store, verify="quick").S[:16]
    assert (wrong != right).sum() in (1, 2, 3), "reading believes the checksum"
    assert "is not the file that was written" in sentence(lambda: fs.open(store, verify="full"))
    for flags, code in (([], 0), (["--verify"], 2)):
        assert run("analyze", "mode-variance", str(store), "--feature", "settle", *flags) == code


def forge_crc(data: bytearray, place: int, end: int) -> None:
    """Change a byte at `place`, and four before `end`, so that the CRC-32C of all stays."""
    target = crc(bytes(data[:end]))
    data[place + 3] ^= 0x01
    at = end - 5 * 4
    data[at : at + 4] = bytes(4)

    def checksum() -> int:
        return int.from_bytes(crc(bytes(data[:end])), "little")

    base = checksum()
    columns = []  # the checksum is linear: what each of 32 bits changes in it
    for bit in range(32):
        data[at + bit // 8] = 1 << bit % 8
        columns.append((checksum() ^ base, 1 << bit))
        data[at + bit // 8] = 0
    wanted, chosen = base ^ int.from_bytes(target, "little"), 0
    for position in range(32):
        pivot = next((pair for pair in columns if pair[0] >> position & 1), None)
        if pivot is None:
            continue
        columns = [
            (c ^ pivot[0], m ^ pivot[1]) if c >> position & 1 else (c, m)
            for c, m in columns
            if (c, m) != pivot
        ]
        if wanted >> position & 1:
            wanted, chosen = wanted ^ pivot[0], chosen ^ pivot[1]
    assert wanted == 0
    data[at : at + 4] = chosen.to_bytes(4, "little")
    assert crc(bytes(data[:end])) == target


def test_what_was_asked_for_must_be_one_of_three() -> None:
    with pytest.raises(RequestError, match="None, quick or full"):
        fs.open("x", verify="yes")  # type: ignore[arg-type]
