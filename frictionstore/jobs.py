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
from frictionstore.errors import FrictionstoreError, RequestError
from frictionstore.extract.conduit.constants import ConduitConstants
from frictionstore.progress import Report, progress_bar
from frictionstore.text import did_you_mean, printable
from frictionstore.writer import StorePlan, StoreWriter, up_to_date

if TYPE_CHECKING:
    from frictionstore.extract.checkpoints import Checkpoint, Source
    from frictionstore.extract.datasets import Dataset
    from frictionstore.extract.engine import Engine

DEFAULT_RECIPE = "digits-speckle"
PRECISIONS = ("float32", "tf32", "bfloat16")
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
    "maps": list, "engine": str, "device": str, "precision": str, "split": str,
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
    for key, choices in (("engine", ("native", "geolip")), ("precision", PRECISIONS)):
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
    """Which encoder, without loading it into a model."""

    config: dict[str, Any]
    weights_sha256: str


def build_request(
    identity: EncoderIdentity, dataset: Dataset, job: Job, shard_images: int
) -> dict[str, Any]:
    """Everything that decides the content of the store, and nothing else."""
    described = {**dataset.describe(), "count": len(dataset.ids)}
    if job.skip_unreadable:
        described["skip_unreadable"] = True
    low, high = dataset.value_range
    resize = (
        "none, drawn at this size" if described["name"] == "noise" else "shorter side, bilinear"
    )
    return {
        "kind": "extraction",
        "format": schema.FORMAT,
        "encoder": {
            "architecture": "PatchSVAE v1",
            "config": identity.config,
            "weights_sha256": identity.weights_sha256,
        },
        "dataset": described,
        "transform": {
            "image_size": job.image_size,
            "resize": resize,
            "crop": "centre",
            "channels": "RGB",
            "range": [low, high],
        },
        "conduit": ConduitConstants().as_dict(),
        "precision": job.precision,
        "maps": {name: schema.MAPS[name].dtype for name in job.maps},
        "shard_images": shard_images,
    }


def _known_identity(job: Job, file_sha256: str) -> EncoderIdentity | None:
    """The identity an earlier run recorded for the same file, so that torch is not needed."""
    from frictionstore.store import open_store

    if not job.out.is_dir():
        return None
    try:
        store = open_store(job.out)
        recorded = store.provenance.get("encoder", {})
        encoder = store.request["encoder"]
        if recorded.get("file_sha256") == file_sha256:
            return EncoderIdentity(encoder["config"], encoder["weights_sha256"])
    except (FrictionstoreError, KeyError, TypeError, AttributeError):
        return None  # what is wrong with the target is said when it is checked
    return None


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
        ``images``, ``measured`` and ``seconds``.

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
        self.source: Source | None = None
        self.checkpoint: Checkpoint | None = None
        self.upstream: Any = None

    def go(self) -> dict[str, Any]:
        from frictionstore.extract.datasets import DatasetOptions, Part, open_dataset
        from frictionstore.header import read_header

        job = self.job
        self._require_packages()
        identity = self._identify_encoder()
        options = DatasetOptions(job.split, job.count, job.seed, job.data_root, job.download)
        dataset = open_dataset(job.dataset, options, self.report)
        if job.limit is not None:
            dataset = Part(dataset, list(range(min(job.limit, len(dataset.ids)))))
        rows = self._row_shapes(identity)
        shard_images = job.shard_images
        if shard_images is None:
            shard_images = schema.default_shard_images(rows, len(dataset.ids))
        schema.plan_arrays(rows, len(dataset.ids), shard_images)  # refuses a bad number now
        request = build_request(identity, dataset, job, shard_images)
        try:
            if not self.repair and up_to_date(job.out, request):
                header = read_header(job.out)
                self.report(f"{printable(job.out)} is up to date ({header.n_images:,} images)")
                return self._outcome("up to date", header, 0)
        except FrictionstoreError:
            if not self.overwrite:
                raise
        plan, kept = self._plan(request, rows, shard_images, dataset)
        measured = self._extract(plan, kept)
        header = read_header(job.out)
        return self._outcome("complete", header, measured)

    def _outcome(self, status: str, header: Any, measured: int) -> dict[str, Any]:
        return {
            "store": str(self.job.out),
            "status": status,
            "images": header.n_images,
            "measured": measured,
            "digest": header.digest,
            "fingerprint": header.fingerprint,
            "seconds": round(time.monotonic() - self.started, 3),
        }

    def _require_packages(self) -> None:
        missing = [name for name in ("PIL", "safetensors") if find_spec(name) is None]
        if missing:
            raise RequestError(
                "extraction needs more packages than analysis: pip install 'frictionstore[extract]'"
            )

    def _identify_encoder(self) -> EncoderIdentity:
        from frictionstore.extract.checkpoints import find_checkpoint, read_checkpoint
        from frictionstore.extract.config import SVAEConfig

        job = self.job
        if job.engine == "geolip" and not _is_known_file(job.encoder):
            upstream = self._load_upstream(job.encoder)
            return EncoderIdentity(upstream.config, upstream.weights_sha256)
        self.source = find_checkpoint(job.encoder)
        known = _known_identity(job, self.source.sha256)
        if known is not None:
            return known
        self._require_torch_for(self.source.path)
        self.checkpoint = read_checkpoint(self.source)
        config = SVAEConfig.from_mapping(self.checkpoint.config, self.source.path.name)
        return EncoderIdentity(config.as_dict(), self.checkpoint.weights_sha256)

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
        config = identity.config
        return schema.map_row_shapes(
            self.job.maps, self.job.image_size, config["patch_size"], config["D"]
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
        from frictionstore.extract.pipeline import extract_units

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
            return GeolipEngine(upstream, job.maps, device, value_range=dataset.value_range)
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
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                continue
        return {**engine.describe(), "versions": versions}

    def _provenance(self, measured: int, seconds: float) -> dict[str, Any]:
        job = self.job
        encoder: dict[str, Any] = {"name": job.encoder}
        if self.source is not None:
            encoder = {"origin": self.source.origin, "file_sha256": self.source.sha256}
            if self.checkpoint is not None and self.checkpoint.notes:
                encoder["notes"] = self.checkpoint.notes
        return {
            "made_by": "frictionstore extract",
            "command": sys.argv,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe": job.recipe,
            "dataset": job.dataset,
            "encoder": encoder,
            "measured_images": measured,
            "seconds": round(seconds, 3),
            "images_per_second": round(measured / seconds, 2) if measured and seconds else None,
        }


def _is_known_file(encoder: str) -> bool:
    from frictionstore.extract.checkpoints import BUNDLED

    return encoder in BUNDLED or Path(encoder).expanduser().exists()


def _require_torch() -> None:
    if find_spec("torch") is None:
        raise RequestError("extraction needs torch: pip install 'frictionstore[extract]'")
