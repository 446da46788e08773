"""An extraction job: what was asked for, its request, and running it.

torch is imported only when something has to be measured; a job whose store is up to date ends
before that.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import tomllib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frictionstore import __version__, schema
from frictionstore.errors import DatasetError, FrictionstoreError, RequestError
from frictionstore.extract.conduit.constants import ConduitConstants
from frictionstore.fingerprint import as_json, differences, leaves
from frictionstore.installed import install_command
from frictionstore.progress import Report, progress_bar
from frictionstore.text import did_you_mean, printable
from frictionstore.writer import StorePlan, StoreWriter, up_to_date

if TYPE_CHECKING:
    from frictionstore.extract.checkpoints import Checkpoint, Source
    from frictionstore.extract.datasets import Dataset
    from frictionstore.extract.engine import Engine

DEFAULT_RECIPE = "digits-speckle"
PRECISIONS = ("float32", "tf32", "bfloat16")
GRAMS = ("coordinated", "original")
CHANNELS = {1: "L", 3: "RGB"}  # Pillow's modes
VERSIONED = ("numpy", "zarr", "numcodecs", "pillow", "torchvision", "numba", "scikit-learn")


@dataclass(frozen=True)
class Job:
    """What an extraction was asked to do; see ``frictionstore extract --help``."""

    dataset: str
    encoder: str
    out: Path
    image_size: int = 64
    maps: tuple[str, ...] = schema.DEFAULT_MAPS
    engine: str = "native"
    device: str = "auto"
    precision: str = "float32"
    gram: str = "coordinated"
    split: str | None = None
    count: int | None = None
    seed: int | None = None
    limit: int | None = None
    data_root: Path = Path("data/torchvision")
    download: bool = False
    skip_unreadable: bool = False
    batch_size: int = 256
    workers: int | None = None
    shard_images: int | None = None
    recipe: str | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Job:
        """A job from a recipe (option ``recipe``) and options that override it; None is unset.

        Raises
        ------
        RequestError
            The recipe does not exist or is not valid, or something needed is missing.
        """
        given = {key: value for key, value in options.items() if value is not None}
        name = given.get("recipe")
        merged = {**(read_recipe(name) if name else {}), **given}
        merged.pop("description", None)
        for key in ("dataset", "encoder", "out"):
            if key not in merged:
                raise RequestError(
                    f"--{key} is missing: give it, or a --recipe such as {DEFAULT_RECIPE}"
                )
        if isinstance(merged.get("maps"), str):
            merged["maps"] = [part.strip() for part in merged["maps"].split(",") if part.strip()]
        if "maps" in merged:
            merged["maps"] = schema.check_maps(merged["maps"])
        for key in ("out", "data_root"):
            if key in merged:
                merged[key] = Path(merged[key])
        return cls(**merged)


# ---- recipes ------------------------------------------------------------------------------------

_TYPES: dict[str, type] = {
    "description": str, "dataset": str, "encoder": str, "out": str, "image_size": int,
    "maps": list, "engine": str, "device": str, "precision": str, "gram": str,
    "split": str,
    "count": int, "seed": int,
    "limit": int, "data_root": str, "download": bool, "skip_unreadable": bool,
    "batch_size": int, "workers": int, "shard_images": int,
}  # fmt: skip


def recipe_table() -> dict[str, dict[str, Any]]:
    """The bundled recipes by name."""
    folder = files("frictionstore") / "recipes"
    names = sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )
    return {name: read_recipe(name) for name in names}


def read_recipe(name: str) -> dict[str, Any]:
    """A bundled recipe by its name, or a recipe file by its path.

    Raises
    ------
    RequestError
        There is none, or it is not valid; the message says where.
    """
    path = Path(name)
    if name.endswith(".toml") or "/" in name:
        if not path.is_file():
            raise RequestError(f"there is no recipe file {printable(name)}")
        text = path.read_bytes()
    else:
        bundled = files("frictionstore") / "recipes" / f"{name}.toml"
        if not bundled.is_file():
            known = sorted(
                entry.name.removesuffix(".toml")
                for entry in (files("frictionstore") / "recipes").iterdir()
                if entry.name.endswith(".toml")
            )
            raise RequestError(
                f"there is no recipe {printable(name)!r}: the recipes are {', '.join(known)}"
                + did_you_mean(name, known)
            )
        text = bundled.read_bytes()
    try:
        recipe = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"recipe {printable(name)} is not valid TOML: {error}") from error
    for key, value in recipe.items():
        kind = _TYPES.get(key)
        if kind is None:
            raise RequestError(
                f"recipe {printable(name)} has an unknown key {printable(key)!r}: "
                f"the keys are {', '.join(_TYPES)}{did_you_mean(key, _TYPES)}"
            )
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise RequestError(
                f"recipe {printable(name)}: {key} is {printable(repr(value))}, "
                f"expected {'a list of names' if kind is list else kind.__name__}"
            )
        if (
            isinstance(value, int)
            and kind is int
            and value < (0 if key in ("seed", "workers") else 1)
        ):
            raise RequestError(f"recipe {printable(name)}: {key} is {value}, which is too small")
    for key, choices in (
        ("engine", ("native", "geolip")),
        ("precision", PRECISIONS),
        ("gram", GRAMS),
    ):
        if recipe.get(key, choices[0]) not in choices:
            raise RequestError(
                f"recipe {printable(name)}: {key} must be {' or '.join(choices)}"
                + did_you_mean(recipe[key], choices)
            )
    recipe.setdefault("out", f"data/{path.stem if name.endswith('.toml') else name}.zarr")
    return recipe


# ---- the request --------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncoderIdentity:
    """Which encoder, without loading it into a model; `config` is as its file has it."""

    config: Mapping[str, Any]
    weights_sha256: str


def build_request(
    identity: EncoderIdentity, dataset: Dataset, job: Job, shard_images: int
) -> dict[str, Any]:
    """Everything that decides the content of the store, and nothing else.

    Raises
    ------
    CheckpointError
        The encoder's config asks for what is not known or not done here.
    RequestError
        The encoder takes images of another kind than the data set has.
    """
    from frictionstore.extract.config import SVAEConfig

    config = SVAEConfig.from_mapping(identity.config, job.encoder)
    if config.channels not in CHANNELS:
        raise RequestError(
            f"encoder {printable(job.encoder)} takes images of {config.channels} channels: the "
            "data sets here give 3 (RGB) or 1 (luma)"
        )
    conduit: dict[str, Any] = {**ConduitConstants().as_dict()}
    if job.gram != GRAMS[0]:  # the default is not named: stores made before it keep their identity
        conduit["gram"] = job.gram
    described = {**dataset.describe(), "count": len(dataset.ids)}
    if job.skip_unreadable:
        described["skip_unreadable"] = True
    low, high = dataset.value_range
    resize = (
        "none, drawn at this size" if described["name"] == "noise" else "shorter side, bilinear"
    )
    request = {
        "kind": "extraction",
        "format": schema.FORMAT,
        "encoder": {
            "architecture": "PatchSVAE v1",
            "config": config.as_dict(),
            "weights_sha256": identity.weights_sha256,
        },
        "dataset": described,
        "transform": {
            "image_size": job.image_size,
            "resize": resize,
            "crop": "centre",
            "channels": CHANNELS[config.channels],
            "range": [low, high],
        },
        "conduit": conduit,
        "precision": job.precision,
        "maps": {name: schema.MAPS[name].dtype for name in job.maps},
        "shard_images": shard_images,
    }
    for key, value in leaves(request):
        private = any(part.startswith("_") for part in key.split("."))
        if private or (isinstance(value, str) and os.path.isabs(value)):
            raise RequestError(
                f"the request would hold {printable(key)} {printable(value)!r}, which is this "
                "machine's own: the same job would have another fingerprint elsewhere"
            )
    return request


def _recorded(job: Job) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Request and provenance of the store at the target; None where there is none to read."""
    from frictionstore.store import open_store

    if not job.out.is_dir():
        return None
    try:
        store = open_store(job.out)
        return store.request, store.provenance
    except FrictionstoreError:
        return None  # what is wrong with the target is said when it is checked


# ---- running ------------------------------------------------------------------------------------


def run_job(
    job: Job,
    *,
    overwrite: bool = False,
    repair: bool = False,
    report: Report = lambda text: None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Extract a store, or find that it is up to date.

    Parameters
    ----------
    job : Job
    overwrite : bool
        Replace another store at the target.
    repair : bool
        Check all of the store at the target and measure its damaged units again.
    report : callable
        Takes remarks for the user.
    show_progress : bool

    Returns
    -------
    dict
        ``store``, ``status`` ("up to date" or "complete"), ``digest``, ``fingerprint``,
        ``images``, ``measured``, ``seconds`` and ``not_checked``: what could not be compared with
        the store, for want of a data set or of the Hub.

    Raises
    ------
    FrictionstoreError
        Whatever is wrong, in one sentence.
    """
    started = time.monotonic()
    return _Run(job, overwrite, repair, report, show_progress, started).go()


class _Run:
    """The steps of one job; each sees what the ones before it found."""

    def __init__(
        self,
        job: Job,
        overwrite: bool,
        repair: bool,
        report: Report,
        show_progress: bool,
        started: float,
    ) -> None:
        if overwrite and repair:
            raise RequestError("--overwrite replaces a store, --repair mends it: choose one")
        self.job = job
        self.overwrite = overwrite
        self.repair = repair
        self.report = report
        self.show_progress = show_progress
        self.started = started
        self.recorded = _recorded(job)
        self.unchecked: list[tuple[str, FrictionstoreError]] = []
        self.source: Source | None = None
        self.checkpoint: Checkpoint | None = None
        self.dataset_images = 0
        self.dataset_read: dict[str, Any] | None = None
        self.identity: EncoderIdentity | None = None
        self.upstream: Any = None

    def go(self) -> dict[str, Any]:
        from frictionstore.extract.datasets import RecordedSet, whole
        from frictionstore.header import read_header

        job = self.job
        self._require_packages()
        self.identity = identity = self._identify_encoder()
        dataset = self._find_dataset()
        rows = self._row_shapes(identity)
        shard_images = job.shard_images
        if shard_images is None:
            shard_images = schema.default_shard_images(rows, len(dataset.ids))
        schema.plan_arrays(rows, len(dataset.ids), shard_images)  # refuses a bad number now
        request = build_request(identity, dataset, job, shard_images)
        try:
            if not self.repair and up_to_date(job.out, request):
                header = read_header(job.out)
                self._say_up_to_date(header.n_images)
                return self._outcome("up to date", header, 0)
        except FrictionstoreError as error:
            if not self.overwrite:
                raise self._with_advice(error, request) from error
        if self.unchecked or isinstance(whole(dataset), RecordedSet):
            raise RequestError(f"{printable(job.out)} was removed just now: run it again")
        plan, kept = self._plan(request, rows, shard_images, dataset)
        measured = self._extract(plan, kept)
        header = read_header(job.out)
        return self._outcome("complete", header, measured)

    def _say_up_to_date(self, images: int) -> None:
        shown = f"{printable(self.job.out)}"
        if not self.unchecked:
            self.report(f"{shown} is up to date ({images:,} images)")
            return
        what = "; ".join(f"{name} ({error})" for name, error in self.unchecked)
        self.report(
            f"{shown} is used as it is ({images:,} images): all else that was asked for agrees "
            f"with it, and not compared could be {what}"
        )

    def _with_advice(self, error: FrictionstoreError, request: Mapping[str, Any]) -> Exception:
        """What is said where the target was made with other weights of the same file."""
        from frictionstore.extract.hub_files import parse_hub_file

        file = parse_hub_file(self.job.encoder)
        if self.recorded is None or file is None or self.source is None:
            return error
        there, provenance = self.recorded
        made_at = file.commit_of(_mapping(provenance.get("encoder")).get("origin"))
        now_at = file.commit_of(self.source.origin)
        weights = _mapping(there.get("encoder")).get("weights_sha256")
        if made_at in (None, now_at) or weights == request["encoder"]["weights_sha256"]:
            return error
        other = [
            phrase
            for phrase in differences(there, dict(request))
            if not phrase.startswith("encoder.")
        ]
        more = f" (and {'; '.join(other[:3])})" if other else ""
        return RequestError(
            f"{printable(self.job.out)} was measured with the encoder's weights of commit "
            f"{made_at}, and the Hub has other ones at {now_at} by now{more}: keep the store with "
            f"--encoder {printable(file.at(made_at or ''))}, or measure the new weights into "
            "another with --out, or replace it with --overwrite"
        )

    def _outcome(self, status: str, header: Any, measured: int) -> dict[str, Any]:
        return {
            "store": str(self.job.out),
            "status": status,
            "images": header.n_images,
            "measured": measured,
            "not_checked": [name for name, _ in self.unchecked],
            "digest": header.digest,
            "fingerprint": header.fingerprint,
            "seconds": round(time.monotonic() - self.started, 3),
        }

    def _require_packages(self) -> None:
        missing = [name for name in ("PIL", "safetensors") if find_spec(name) is None]
        if missing:
            raise RequestError(
                f"extraction needs more packages than analysis: {install_command('extract')}"
            )

    def _identify_encoder(self) -> EncoderIdentity:
        from frictionstore.extract.checkpoints import find_checkpoint, read_checkpoint
        from frictionstore.extract.hub_files import AwayError, parse_hub_file

        job = self.job
        if job.engine == "geolip" and _is_upstreams_name(job.encoder):
            upstream = self._load_upstream(job.encoder)
            return EncoderIdentity(upstream.config, upstream.weights_sha256)
        try:
            self.source = find_checkpoint(
                job.encoder, self.report, show_progress=self.show_progress
            )
        except AwayError as error:
            file = parse_hub_file(job.encoder)
            origin = _mapping((self.recorded or ({}, {}))[1].get("encoder")).get("origin")
            known = None
            if file and file.commit_of(origin) and not self.overwrite and not self.repair:
                known = self._recorded_encoder(origin=str(origin))
            if known is None:
                raise
            self.unchecked.append(("the encoder's weights", error))
            return known
        known = self._recorded_encoder(file_sha256=self.source.sha256)
        if known is not None:
            return known
        self._require_torch_for(self.source.path)
        self.checkpoint = read_checkpoint(self.source)
        return EncoderIdentity(self.checkpoint.config, self.checkpoint.weights_sha256)

    def _recorded_encoder(self, **wanted: str) -> EncoderIdentity | None:
        """The identity that the store at the target has, where its provenance has what is wanted.

        So that torch is not needed for a file known already, nor the Hub for a store.
        """
        if self.recorded is None:
            return None
        request, provenance = self.recorded
        made_with = _mapping(provenance.get("encoder"))
        encoder = _mapping(request.get("encoder"))
        # The request's config is what the version that wrote it understood of the file's.
        config, weights = made_with.get("config"), encoder.get("weights_sha256")
        if any(made_with.get(key) != value for key, value in wanted.items()):
            return None
        if not isinstance(config, dict) or not isinstance(weights, str):
            return None
        return EncoderIdentity(config, weights)

    def _find_dataset(self) -> Dataset:
        """The data set; where the store at the target tells enough of it, without torchvision."""
        from frictionstore.extract.torchvision_files import still_there

        recorded = self._recorded_dataset()
        if recorded is not None and self.recorded is not None:
            read = _mapping(self.recorded[1].get("dataset_read"))
            if read.get("torchvision") == _version("torchvision") and still_there(
                read.get("files"), self.job.data_root
            ):
                return recorded
        try:
            return self._open_dataset()
        except DatasetError as error:
            if recorded is None:
                raise
            self.unchecked.append(("the images of the data set", error))
            return recorded

    def _open_dataset(self) -> Dataset:
        from frictionstore.extract.datasets import DatasetOptions, open_dataset

        job = self.job
        options = DatasetOptions(job.split, job.count, job.seed, job.data_root, job.download)
        return self._limited(open_dataset(job.dataset, options, self.report))

    def _limited(self, dataset: Dataset) -> Dataset:
        from frictionstore.extract.datasets import Part

        self.dataset_images = len(dataset.ids)
        if self.job.limit is None:
            return dataset
        return Part(dataset, list(range(min(self.job.limit, len(dataset.ids)))))

    def _recorded_dataset(self) -> Dataset | None:
        """The data set as the store at the target has it, if it was asked for in the same words."""
        from frictionstore.extract.datasets import RecordedSet

        if self.recorded is None or self.overwrite or self.repair:
            return None
        request, provenance = self.recorded
        described, count = request.get("dataset"), provenance.get("dataset_images")
        if provenance.get("asked") != self._asked() or not isinstance(described, dict):
            return None
        if not isinstance(count, int) or count < 1:
            return None
        return self._limited(RecordedSet(described, count))

    def _asked(self) -> dict[str, Any]:
        job = self.job
        return {"dataset": job.dataset, "split": job.split, "count": job.count, "seed": job.seed}

    @staticmethod
    def _require_torch_for(path: Path) -> None:
        if path.suffix != ".safetensors":
            _require_torch()

    def _load_upstream(self, encoder: Any) -> Any:
        _require_torch()
        from frictionstore.extract.devices import choose_device
        from frictionstore.extract.geolip import load_upstream

        self.upstream = load_upstream(encoder, choose_device(self.job.device))
        return self.upstream

    def _row_shapes(self, identity: EncoderIdentity) -> dict[str, tuple[int, ...]]:
        from frictionstore.extract.config import SVAEConfig

        config = SVAEConfig.from_mapping(identity.config, self.job.encoder)
        return schema.map_row_shapes(
            self.job.maps, self.job.image_size, config.patch_size, config.D
        )

    def _plan(
        self,
        request: dict[str, Any],
        rows: dict[str, tuple[int, ...]],
        shard_images: int,
        dataset: Dataset,
    ) -> tuple[StorePlan, Dataset]:
        from frictionstore.extract.datasets import Part, unreadable

        attributes: dict[str, Any] = {}
        kept = dataset
        if self.job.skip_unreadable:
            bad = set(unreadable(dataset, self.job.image_size))
            kept = Part(dataset, [i for i in range(len(dataset.ids)) if i not in bad])
            attributes["skipped"] = [dataset.ids[i] for i in sorted(bad)]
            if bad:
                self.report(f"{len(bad):,} images cannot be read and are left out")
            if not kept.ids:
                raise RequestError("none of the images can be read: there is nothing to extract")
        return (
            StorePlan(request, len(kept.ids), rows, shard_images, kept.class_names, attributes),
            kept,
        )

    def _extract(self, plan: StorePlan, dataset: Dataset) -> int:
        _require_torch()
        from frictionstore.extract.datasets import TorchvisionSet, whole
        from frictionstore.extract.pipeline import extract_units

        opened = whole(dataset)
        if isinstance(opened, TorchvisionSet) and opened.read_from is not None:
            self.dataset_read = {
                "torchvision": _version("torchvision"),
                "files": opened.read_from,
            }
        job = self.job
        with StoreWriter(job.out, plan, overwrite=self.overwrite, repair=self.repair) as writer:
            if writer.already_complete:
                self.report(f"{printable(job.out)} is sound: there is nothing to repair")
                return 0
            pending = sum(len(plan.units[number]) for number in writer.pending)
            measured, run, seconds = 0, {}, 0.0
            if pending:
                with closing(self._engine(dataset)) as engine:
                    run = self._describe_run(engine)
                    workers = self._workers(dataset)
                    done = plan.n_images - pending
                    self.report(
                        f"extracting {pending:,} images of {printable(job.dataset)} with "
                        f"{printable(job.encoder)} on {run['device']} ({run['device_name']})"
                        + (f"; {done:,} are done already" if done else "")
                    )
                    began = time.monotonic()
                    with progress_bar(pending, "extracting", show=self.show_progress) as progress:
                        measured = extract_units(
                            writer,
                            dataset,
                            engine,
                            image_size=job.image_size,
                            batch_size=job.batch_size,
                            workers=workers,
                            run=run,
                            progress=progress,
                        )
                    seconds = time.monotonic() - began
            writer.finalise(self._provenance(measured, seconds))
        self.report(
            f"{printable(job.out)} is complete: {plan.n_images:,} images"
            + (f" in {seconds:.1f} s ({measured / seconds:,.0f} images/s)" if measured else "")
        )
        return measured

    def _engine(self, dataset: Dataset) -> Engine:
        from frictionstore.extract.devices import choose_device
        from frictionstore.extract.engine import native_engine

        job = self.job
        device = choose_device(job.device)
        if job.engine == "geolip":
            from frictionstore.extract.geolip import GeolipEngine

            upstream = self.upstream or self._load_upstream(self.source)
            if job.precision != "float32":
                raise RequestError("the engine geolip computes in float32: leave --precision out")
            return GeolipEngine(
                upstream, job.maps, device, value_range=dataset.value_range, gram=job.gram
            )
        from frictionstore.extract.checkpoints import build_encoder, read_checkpoint

        assert self.source is not None
        checkpoint = self.checkpoint or read_checkpoint(self.source)
        model = build_encoder(checkpoint, self.source.path.name)
        return native_engine(
            model,
            job.maps,
            device,
            value_range=dataset.value_range,
            precision=job.precision,
            gram=job.gram,
            report=self.report,
        )

    def _workers(self, dataset: Dataset) -> int:
        if self.job.workers is not None:
            return self.job.workers
        return 0 if dataset.in_memory else min(os.cpu_count() or 1, 8)

    @staticmethod
    def _describe_run(engine: Engine) -> dict[str, Any]:
        versions = {"frictionstore": __version__, "python": platform.python_version()}
        for package in VERSIONED:
            found = _version(package)
            if found is not None:
                versions[package] = found
        return {**engine.describe(), "versions": versions}

    def _provenance(self, measured: int, seconds: float) -> dict[str, Any]:
        job = self.job
        encoder: dict[str, Any] = {"name": job.encoder}
        if self.source is not None:
            encoder = {"origin": self.source.origin, "file_sha256": self.source.sha256}
        if self.identity is not None:
            encoder["config"] = as_json(self.identity.config)
        for loaded in (self.checkpoint, self.upstream):
            if loaded is not None and loaded.notes:
                encoder["notes"] = as_json(loaded.notes)
        return {
            "made_by": "frictionstore extract",
            "command": sys.argv,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe": job.recipe,
            "dataset": job.dataset,
            "asked": self._asked(),
            "dataset_images": self.dataset_images,
            "dataset_read": self.dataset_read,
            "encoder": encoder,
            "measured_images": measured,
            "seconds": round(seconds, 3),
            "images_per_second": round(measured / seconds, 2) if measured and seconds else None,
        }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    """A store's metadata are somebody else's: what should be a mapping may be anything."""
    return value if isinstance(value, Mapping) else {}


def _is_upstreams_name(encoder: str) -> bool:
    """Whether upstream finds and loads it by itself; every other file it gets from us, as data."""
    from frictionstore.extract.checkpoints import BUNDLED

    ours = encoder in BUNDLED or "://" in encoder or "@" in encoder
    return not ours and not Path(encoder).expanduser().exists()


def _require_torch() -> None:
    if find_spec("torch") is None:
        raise RequestError(f"extraction needs torch: {install_command('extract')}")
