"""Fetching an encoder from the Hub: what a network and a server do, each with its sentence.

Against a stand-in of the Hub on loopback. What huggingface_hub makes of its variables when it is
imported is set in its constants; one test runs a process of its own, with the variables.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frictionstore.errors import CheckpointError
from frictionstore.extract.encoder.checkpoints import find_checkpoint
from frictionstore.extract.encoder.hub_address import HUB_REPOSITORY, HubFile, parse_hub_file
from tests.servers.model_hub import ModelHub, asked_here, model_hub

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"
NAME = "v40_freckles_noise/checkpoints/best.pt"
DATA = np.random.default_rng(0).bytes(300_000)
ORIGIN = f"hub:{HUB_REPOSITORY}@{COMMIT}/{NAME}"
SAID = "encoder v40_freckles_noise cannot be fetched: it is not in the cache, and "


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with model_hub() as running:
        running.files[HUB_REPOSITORY, COMMIT, NAME] = DATA
        running.branches["main"] = COMMIT
        yield running


def find(
    hub: ModelHub | str, cache: Path, name: str = "v40_freckles_noise", **changed: Any
) -> list[str]:
    """What is reported and then the outcome, one line each, within 30 s."""
    address = hub if isinstance(hub, str) else hub.address
    said: list[str] = []
    began = time.monotonic()
    with asked_here(address, cache, **changed):
        try:
            found = find_checkpoint(name, said.append)
            said.append(f"{found.origin} {found.sha256}")
        except CheckpointError as error:
            said.append(f"refused: {error}")
    assert time.monotonic() - began < 30
    return said


def fetched(data: bytes = DATA, origin: str = ORIGIN) -> str:
    return f"{origin} {hashlib.sha256(data).hexdigest()}"


def reported(commit: str = COMMIT, size: str = "300 kB") -> str:
    return f"fetching hf://{HUB_REPOSITORY}/{NAME} (commit {commit[:12]}, {size})"


# ---- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("v41_freckles_256", (HUB_REPOSITORY, "v41_freckles_256/checkpoints/best.pt", None)),
        ("v41_freckles_256@main", (HUB_REPOSITORY, "v41_freckles_256/checkpoints/best.pt", "main")),
        ("hf://a/b/c.pt", ("a/b", "c.pt", None)),
        ("hf://a/b.x/c/epoch_0300.pt@refs/pr/3", ("a/b.x", "c/epoch_0300.pt", "refs/pr/3")),
        ("hf://a/b@v1/c/d.pt", ("a/b", "c/d.pt", "v1")),
        ("hf://a/b/c@d.pt@main", ("a/b", "c@d.pt", "main")),
    ],
)
def test_addresses(encoder: str, expected: tuple[str, str, str | None]) -> None:
    file = parse_hub_file(encoder)
    assert file is not None
    assert (file.repository, file.path, file.revision) == expected
    pinned = parse_hub_file(file.at(COMMIT))
    assert pinned is not None
    assert (pinned.repository, pinned.path, pinned.commit) == (*expected[:2], COMMIT)


@pytest.mark.parametrize("encoder", ["speckle", "best.pt", "v40", "folder/v40_x", "hf:/a/b/c.pt"])
def test_names_that_are_not_the_hubs(encoder: str) -> None:
    assert parse_hub_file(encoder) is None


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("hf://a", "does not name a file on the Hub: expected hf://OWNER/REPO/path/in/repo.pt"),
        ("hf://a/b", "does not name a file"),
        ("hf://a/b/", "does not name a file"),
        ("hf://a/../c.pt", "does not name a file"),
        ("hf://a/b/../../c.pt", "does not name a file"),
        ("hf:///b/c.pt", "does not name a file"),
        ("hf://a/b/c.pt@", "names no revision"),
        ("hf://a/b@/c.pt", "names no revision"),
        ("v40_freckles_noise@", "names no revision"),
        ("v40_freckles_noise@../../x", "names no revision"),
        ("v40_freckles_noise@/etc/x", "names no revision"),
    ],
)
def test_addresses_that_name_nothing(encoder: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_hub_file(encoder)


def test_an_origin_gives_its_commit_to_its_own_file_only() -> None:
    file = HubFile("hf://a/b/c.pt", "a/b", "c.pt", None)
    assert file.commit_of(file.origin(COMMIT)) == COMMIT
    assert HubFile("", "a/b", "c.pt", COMMIT).commit_of(file.origin(COMMIT)) == COMMIT
    assert HubFile("", "a/b", "c.pt", OTHER).commit_of(file.origin(COMMIT)) is None
    assert HubFile("", "a/b", "d.pt", None).commit_of(file.origin(COMMIT)) is None
    assert file.commit_of("file:c.pt") is None


# ---- what goes well -----------------------------------------------------------------------------


def test_a_file_is_fetched_once_and_known_by_huggingface_hub(hub: ModelHub, tmp_path: Path) -> None:
    assert find(hub, tmp_path) == [reported(), fetched()]
    assert find(hub, tmp_path) == [fetched()]
    assert [line.split()[0] for line in hub.requests] == ["HEAD", "GET", "GET", "HEAD"]
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(HUB_REPOSITORY, NAME, cache_dir=tmp_path)
    assert isinstance(known, str)
    assert Path(known).read_bytes() == DATA
    assert Path(known).resolve().name == hashlib.sha256(DATA).hexdigest()
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_huggingface_hub_fetched_is_used(hub: ModelHub, tmp_path: Path) -> None:
    code = f"from huggingface_hub import *; hf_hub_download({HUB_REPOSITORY!r}, {NAME!r})"
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": hub.address}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True)
    assert find(hub, tmp_path) == [fetched()]


def test_a_commit_in_the_cache_needs_no_hub(hub: ModelHub, tmp_path: Path) -> None:
    name = f"v40_freckles_noise@{COMMIT}"
    assert find(hub, tmp_path, name) == [reported(), fetched()]
    hub.requests.clear()
    assert find(hub, tmp_path, name) == [fetched()]
    assert hub.requests == []


def test_any_file_of_any_repository_at_any_revision(hub: ModelHub, tmp_path: Path) -> None:
    hub.files["some.one/battery", OTHER, "deep/epoch_0300.pt"] = DATA[:1000]
    hub.branches["refs/pr/3"] = OTHER
    found = find(hub, tmp_path, "hf://some.one/battery/deep/epoch_0300.pt@refs/pr/3")
    assert found[-1] == fetched(DATA[:1000], f"hub:some.one/battery@{OTHER}/deep/epoch_0300.pt")


def test_the_same_file_at_a_new_commit_is_not_fetched_again(hub: ModelHub, tmp_path: Path) -> None:
    find(hub, tmp_path)
    hub.files[HUB_REPOSITORY, OTHER, NAME] = DATA
    hub.branches["main"] = OTHER
    assert find(hub, tmp_path) == [fetched(origin=ORIGIN.replace(COMMIT, OTHER))]
    hub.files[HUB_REPOSITORY, OTHER, NAME] = DATA[::-1]
    assert find(hub, tmp_path)[-1] == fetched(DATA[::-1], ORIGIN.replace(COMMIT, OTHER))


def test_the_token_is_sent_to_the_hub_and_not_on_to_the_host_of_large_files(
    hub: ModelHub, tmp_path: Path
) -> None:
    hub.token = "sesame"
    assert find(hub, tmp_path, HF_TOKEN="sesame")[-1] == fetched()
    assert ("127.0.0.1", "Bearer sesame") in hub.tokens
    assert ("localhost", None) in hub.tokens
    assert ("localhost", "Bearer sesame") not in hub.tokens


def test_a_download_shows_how_far_it_is_and_needs_no_torch(hub: ModelHub, tmp_path: Path) -> None:
    """In our own style, on standard error; the pace is that of a connection that is cut."""
    hub.cut, hub.cuts = 100_000, 2
    code = (
        "import sys; sys.modules['torch'] = None; sys.stderr.isatty = lambda: True\n"
        "from frictionstore import progress; progress.PATIENCE = 0.0; progress.REFRESH = 0.0\n"
        "from frictionstore.extract.encoder.checkpoints import find_checkpoint\n"
        "find_checkpoint('v40_freckles_noise', show_progress=True)"
    )
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": hub.address}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    bars = [part for part in done.stderr.replace("\n", "\r").split("\r") if part.strip()]
    assert bars
    assert all(part.startswith("fetching best.pt [") for part in bars)
    assert any("] 100,000/300,000 " in part for part in bars)
    assert "300,000/300,000" in bars[-1]


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [True, False])
def test_a_damaged_copy_in_the_cache_is_named_and_fetched_again(
    hub: ModelHub, tmp_path: Path, large: bool
) -> None:
    """Right in size and wrong in content; large files are known by SHA-256, small ones by git's."""
    hub.large = large
    find(hub, tmp_path)
    (link,) = tmp_path.rglob("best.pt")
    link.resolve().write_bytes(DATA[:-1] + b"?")
    said = find(hub, tmp_path)
    assert said[0].startswith(f"{link} is damaged (its ")
    assert said[1:] == [reported(), fetched()]
    assert find(hub, tmp_path) == [fetched()]


def test_a_damaged_copy_of_a_commit_is_fetched_again(hub: ModelHub, tmp_path: Path) -> None:
    name = f"v40_freckles_noise@{COMMIT}"
    find(hub, tmp_path, name)
    (link,) = tmp_path.rglob("best.pt")
    link.resolve().write_bytes(DATA[:-1] + b"?")
    assert find(hub, tmp_path, name)[-1] == fetched()


def test_a_damaged_copy_is_not_used_when_the_hub_is_away(hub: ModelHub, tmp_path: Path) -> None:
    find(hub, tmp_path)
    (link,) = tmp_path.rglob("best.pt")
    link.resolve().write_bytes(DATA[:-1] + b"?")
    (said,) = find(hub, tmp_path, HF_HUB_OFFLINE=True)
    assert f"the copy in the cache, {link}, is damaged, and HF_HUB_OFFLINE is set" in said


def test_what_arrives_damaged_is_fetched_once_more(hub: ModelHub, tmp_path: Path) -> None:
    hub.damage = 1
    said = find(hub, tmp_path)
    assert said[0] == said[2] == reported()
    assert said[1].startswith("best.pt arrived damaged (its SHA-256 is ")
    assert said[3] == fetched()


def test_what_arrives_damaged_again_is_refused_and_not_kept(hub: ModelHub, tmp_path: Path) -> None:
    hub.damage = 100
    said = find(hub, tmp_path)
    assert "v40_freckles_noise cannot be fetched: best.pt arrives damaged again" in said[-1]
    assert len([line for line in hub.requests if "/large/" in line]) == 2
    assert not list(tmp_path.rglob("best.pt"))
    assert not [p for p in tmp_path.rglob("blobs/*")]


# ---- connections that break ---------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_is_cut_is_taken_up(hub: ModelHub, tmp_path: Path, ranges: bool) -> None:
    hub.cut, hub.cuts, hub.ranges = 100_000, 2, ranges
    assert find(hub, tmp_path)[-1] == fetched()
    asked = [line.split()[-1] for line in hub.requests if "/large/" in line]
    assert asked == ["None", "bytes=100000-", "bytes=200000-" if ranges else "bytes=100000-"]


@pytest.mark.slow
def test_faults_are_forgotten_when_much_has_arrived_since(hub: ModelHub, tmp_path: Path) -> None:
    """Five cuts are more than are allowed in a row; between them more than a megabyte arrives."""
    big = np.random.default_rng(1).bytes(7_000_000)
    hub.files[HUB_REPOSITORY, COMMIT, NAME] = big
    hub.cut, hub.cuts = 1_200_000, 5
    assert find(hub, tmp_path)[-1] == fetched(big)


def test_a_connection_that_is_always_cut_is_one_sentence(hub: ModelHub, tmp_path: Path) -> None:
    hub.cut, hub.ranges = 1000, False
    said = find(hub, tmp_path)
    assert said[0] == reported()
    assert said[1].startswith(
        f"refused: {SAID}the transfer broke off after 1 kB of 300 kB: 127.0.0.1:"
    )
    assert "closed the connection" in said[1]
    assert not list(tmp_path.rglob("*.tmp"))


# ---- answers that are no file -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "RepoNotFound", f"the Hub answered 401: {HUB_REPOSITORY} is private, or is not "
         "there: set HF_TOKEN to a token that may read it"),
        (403, "GatedRepo", f"the Hub answered 403: {HUB_REPOSITORY} is not open to everyone: ask"),
        (403, None, f"the Hub answered 403: {HUB_REPOSITORY} is not open to everyone: ask"),
        (429, None, "the Hub answered 429, too many requests: try again in 77 s; with HF_TOKEN"),
        (500, None, "the Hub answered 500, a fault there: try again later, or give a file's path"),
        (503, None, "the Hub answered 503, a fault there"),
        (418, None, "the Hub answered 418, which is not expected"),
    ],
)  # fmt: skip
def test_statuses(
    hub: ModelHub, tmp_path: Path, status: int, code: str | None, expected: str
) -> None:
    hub.status, hub.code, hub.headers = status, code, {"Retry-After": "77"}
    (said,) = find(hub, tmp_path)
    assert said.startswith(f"refused: {SAID}{expected}")
    assert status not in (401, 403) or "HF_TOKEN" in said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v50_fresnel_64", f"the Hub answered 404: {HUB_REPOSITORY} has no file "
         "v50_fresnel_64/checkpoints/best.pt at main"),
        ("v40_freckles_noise@typo", f"the Hub answered 404: {HUB_REPOSITORY} has no revision typo"),
        ("hf://no/body/best.pt", "the Hub answered 404: there is no repository no/body, or it is "
         "private: HF_TOKEN must be a token that may read it"),
    ],
)  # fmt: skip
def test_nothing_there(hub: ModelHub, tmp_path: Path, name: str, expected: str) -> None:
    assert find(hub, tmp_path, name) == [f"refused: encoder {name} cannot be fetched: {expected}"]


def test_a_token_that_is_not_accepted(hub: ModelHub, tmp_path: Path) -> None:
    hub.token = "sesame"
    (said,) = find(hub, tmp_path, HF_TOKEN="wrong")
    assert "the token in HF_TOKEN, or kept by hf auth login, is not accepted" in said


def test_a_fault_of_the_host_of_large_files(hub: ModelHub, tmp_path: Path) -> None:
    hub.body_status = 503
    assert find(hub, tmp_path)[-1].startswith(f"refused: {SAID}the Hub answered 503")


@pytest.mark.parametrize("where", ["portal", "portal_body"])
def test_a_networks_login_page(hub: ModelHub, tmp_path: Path, where: str) -> None:
    setattr(hub, where, True)
    said = find(hub, tmp_path)[-1]
    assert said.startswith(f"refused: {SAID}what answers at 127.0.0.1:")
    assert "is not the Hub, as where a network asks to log in first" in said
    assert not list(tmp_path.rglob("best.pt"))


def test_no_such_host_and_no_server(tmp_path: Path) -> None:
    (said,) = find("http://hub.invalid", tmp_path)
    assert said == (
        f"refused: {SAID}the name hub.invalid cannot be looked up: check the network, "
        "or HF_ENDPOINT"
    )
    (said,) = find("http://127.0.0.1:9", tmp_path)
    assert said.startswith(f"refused: {SAID}127.0.0.1:9 cannot be reached (Connection refused)")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["silent_head", "silent_body", "trickle"])
def test_a_server_that_never_answers(hub: ModelHub, tmp_path: Path, where: str) -> None:
    """`find` sees that it takes less than 30 s with the seconds that are allowed by default."""
    setattr(hub, where, True)
    assert "does not answer within 9 s: try again later, allow more" in find(hub, tmp_path)[-1]


def test_the_seconds_allowed_are_huggingface_hubs(hub: ModelHub, tmp_path: Path) -> None:
    hub.silent_head = True
    (said,) = find(hub, tmp_path, HF_HUB_ETAG_TIMEOUT="1")
    assert "does not answer within 1 s" in said


@pytest.mark.parametrize("status", [503, 401, 429])
def test_the_cache_serves_when_the_hub_is_away(hub: ModelHub, tmp_path: Path, status: int) -> None:
    find(hub, tmp_path)
    hub.status = status
    said, found = find(hub, tmp_path)
    assert said.startswith(
        "encoder v40_freckles_noise cannot be compared with the Hub's, for the Hub answered"
    )
    assert said.endswith(f"; the copy in the cache is used, of commit {COMMIT}")
    assert found == fetched()


def test_a_cache_that_cannot_be_written(hub: ModelHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (said,) = find(hub, tmp_path / "file")
    assert "v40_freckles_noise cannot be kept in the Hub's cache:" in said
