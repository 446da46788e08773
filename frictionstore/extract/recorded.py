"""What the store at a job's target says about how it was made, where there is one.

It tells an encoder's identity without torch, and a data set's without its files. It is somebody
else's word: `run_job` compares it with what it loads before it measures with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from frictionstore.errors import FrictionstoreError, RequestError, StoreError
from frictionstore.extract.encoder.hub_address import HubFile
from frictionstore.extract.given import expanded
from frictionstore.extract.request import EncoderIdentity, Job
from frictionstore.format.fingerprint import differences
from frictionstore.text import printable


class Recorded:
    """Request and provenance of the store at the target; both empty where none can be read."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request: Mapping[str, Any] = {}
        self.provenance: Mapping[str, Any] = {}
        if job.out.is_dir():
            from frictionstore.store.reader import open_store

            try:
                store = open_store(job.out)
                self.request, self.provenance = store.request, mapping(store.provenance)
            except FrictionstoreError:
                pass  # what is wrong with the target is said when it is checked

    @property
    def origin(self) -> object:
        """Where the encoder came from."""
        return mapping(self.provenance.get("encoder")).get("origin")

    def encoder(self, **wanted: str) -> EncoderIdentity | None:
        """The encoder's identity, where the provenance has of it what is wanted."""
        made_with = mapping(self.provenance.get("encoder"))
        encoder = mapping(self.request.get("encoder"))
        # The request's config is what the version that wrote it understood of the file's.
        config, weights = made_with.get("config"), encoder.get("weights_sha256")
        if any(made_with.get(key) != value for key, value in wanted.items()):
            return None
        if not isinstance(config, dict) or not isinstance(weights, str):
            return None
        return EncoderIdentity(config, weights)

    def dataset(self) -> tuple[dict[str, Any], int] | None:
        """The data set and its number of images, if it was asked for in the same words."""
        described = self.request.get("dataset")
        count = self.provenance.get("dataset_images")
        if self.provenance.get("asked") != asked(self.job) or not isinstance(described, dict):
            return None
        return (described, count) if isinstance(count, int) and count > 0 else None

    def files_are_still_there(self) -> bool:
        """Whether the data set's files are those that torchvision read, of this version too."""
        from frictionstore.extract.data.torchvision_files import still_there

        read = mapping(self.provenance.get("dataset_read"))
        return read.get("torchvision") == version_of("torchvision") and still_there(
            read.get("files"), self.job.data_root
        )

    def moved_on(
        self,
        error: FrictionstoreError,
        file: HubFile | None,
        origin: str,
        request: Mapping[str, Any],
    ) -> FrictionstoreError:
        """What is said instead of `error` where the Hub's file has other weights by now, or the
        data set has other images."""
        found = differences(dict(self.request), dict(request)) if self.request else []
        other = [phrase for phrase in found if phrase.startswith("dataset.")]
        grouped = any(phrase.startswith("dataset.groups") for phrase in other)
        if (
            other
            and not grouped
            and all(phrase in other or phrase.startswith("shard_images ") for phrase in found)
        ):
            return self.more_images(other)
        if file is None:
            return error
        made_at, now_at = file.commit_of(self.origin), file.commit_of(origin)
        weights = mapping(self.request.get("encoder")).get("weights_sha256")
        if made_at in (None, now_at) or weights == request["encoder"]["weights_sha256"]:
            return error
        other = [
            phrase
            for phrase in differences(dict(self.request), dict(request))
            if not phrase.startswith("encoder.")
        ]
        more = f" (and {'; '.join(other[:3])})" if other else ""
        return RequestError(
            f"{printable(self.job.out)} was measured with the encoder's weights of commit "
            f"{made_at}, and the Hub has other ones at {now_at} by now{more}: keep the store with "
            f"--encoder {printable(file.at(made_at or ''))}, or measure the new weights into "
            "another with --out, or replace it with --overwrite"
        )

    def more_images(self, found: list[str]) -> StoreError:
        """What is said of a store that was measured alike, of other images."""
        out = printable(self.job.out)
        found = sorted(found, key=lambda phrase: "sha256" in phrase)  # what a person reads first
        return StoreError(
            f"{out} holds another store ({'; '.join(found[:2])}), measured in the same way of "
            "other images: to add images, extract the new ones alone into a store of their own "
            f"and join the two with frictionstore merge {out} NEW.zarr --out BOTH.zarr; or choose "
            "another target, or replace it with",
            option="overwrite=True",
        )


def asked(job: Job) -> dict[str, Any]:
    """The words by which a data set was asked for."""
    return {"dataset": job.dataset, "split": job.split, "count": job.count, "seed": job.seed}


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def mapping(value: object) -> Mapping[str, Any]:
    """A store's metadata are somebody else's: what should be a mapping may be anything."""
    return value if isinstance(value, Mapping) else {}


def is_upstreams_name(encoder: str) -> bool:
    """Whether upstream finds and loads it by itself; every other file it gets from us, as data."""
    from frictionstore.extract.encoder.checkpoints import BUNDLED

    ours = encoder in BUNDLED or "://" in encoder or "@" in encoder
    return not ours and not expanded(encoder).exists()
