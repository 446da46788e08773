"""Running an extraction job.

torch is imported only when something has to be measured; a job whose store is up to date ends
before that.
"""

from __future__ import annotations

import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frictionstore.errors import DatasetError, FrictionstoreError, RequestError
from frictionstore.extract import provenance
from frictionstore.extract.encoder.hub_address import AwayError, parse_hub_file
from frictionstore.extract.given import require_torch
from frictionstore.extract.recorded import Recorded, is_upstreams_name, version_of
from frictionstore.extract.request import EncoderIdentity, Job, build_request, possible
from frictionstore.extract.rounding import Rounding
from frictionstore.extract.sharing import ALONE, Sharing, device_kind, left_to_others
from frictionstore.format import schema
from frictionstore.format.fingerprint import as_json
from frictionstore.format.plan import StorePlan
from frictionstore.installed import install_command
from frictionstore.progress import Report, progress_bar
from frictionstore.store.part import PartWriter, parse_part
from frictionstore.store.writer import StoreWriter, up_to_date
from frictionstore.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from frictionstore.extract.data.base import Dataset
    from frictionstore.extract.data.groups import Grouping
    from frictionstore.extract.encoder.checkpoints import Checkpoint, Source
    from frictionstore.extract.engines.base import Engine
    from frictionstore.extract.measuring import Measuring


def run_job(
    job: Job,
    *,
    overwrite: bool = False,
    repair: bool = False,
    sharing: Sharing = ALONE,
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
    sharing : Sharing
        With which other runs or machines the work is shared.
    report : callable
        Takes remarks for the user.
    show_progress : bool

    Returns
    -------
    dict
        ``store``, ``status`` ("up to date", "complete" or, of a part, "unfinished"), ``digest``,
        ``fingerprint``, ``images``, ``measured``, ``seconds`` and ``not_checked``: what could not
        be compared with the store, for want of a data set or of the Hub.

    Raises
    ------
    FrictionstoreError
        Whatever is wrong, in one sentence.
    """
    started = time.monotonic()
    return _Run(job, overwrite, repair, sharing, report, show_progress, started).go()


class _Run:
    """The steps of one job; each sees what the ones before it found."""

    def __init__(
        self,
        job: Job,
        overwrite: bool,
        repair: bool,
        sharing: Sharing,
        report: Report,
        show_progress: bool,
        started: float,
    ) -> None:
        if overwrite and repair:
            raise RequestError("--overwrite replaces a store, --repair mends it: choose one")
        sharing.check(overwrite=overwrite, repair=repair)
        if job.out.name in ("", ".."):
            raise RequestError(
                f"--out {printable(job.out)} has no name of its own: name the store to make, such "
                f"as {printable(job.out / 'maps.zarr')}"
            )
        self.job = job
        self.overwrite = overwrite
        self.repair = repair
        self.sharing = sharing
        self.shared: dict[str, Any] = {}
        self.report = report
        self.show_progress = show_progress
        self.started = started
        self.recorded = Recorded(job)
        self.unchecked: list[tuple[str, FrictionstoreError]] = []
        self.source: Source | None = None
        self.checkpoint: Checkpoint | None = None
        self.dataset_images = 0
        self.dataset_read: dict[str, Any] | None = None
        self.identity: EncoderIdentity | None = None
        self.upstream: Any = None
        self.rounding = Rounding()
        self.grouping: Grouping | None = None
        self.groups: NDArray[np.int32] | None = None

    def go(self) -> dict[str, Any]:
        from frictionstore.extract.data.base import whole
        from frictionstore.extract.data.choose import RecordedSet
        from frictionstore.extract.data.groups import Grouping
        from frictionstore.format.header import read_header

        job = self.job
        self.grouping = None if job.groups is None else Grouping(job.groups)
        self._require_packages()
        self.identity = identity = self._identify_encoder()
        job = self.job = possible(self.job, identity, self.report)
        dataset = self._find_dataset()
        rows = self._row_shapes(identity)
        shard_images = job.shard_images
        if shard_images is None:
            shard_images = schema.default_shard_images(rows, len(dataset.ids))
        schema.plan_arrays(rows, len(dataset.ids), shard_images)  # refuses a bad number now
        request = build_request(identity, dataset, job, shard_images, self.grouping)
        try:
            if not self.repair and up_to_date(job.out, request):
                header = read_header(job.out)
                self._say_up_to_date(header.n_images)
                return self._outcome("up to date", header, 0)
        except FrictionstoreError as error:
            if not self.overwrite:
                origin = "" if self.source is None else self.source.origin
                file = parse_hub_file(job.encoder) if self.source is not None else None
                raise self.recorded.moved_on(error, file, origin, request) from error
        if self.unchecked or isinstance(whole(dataset), RecordedSet):
            raise RequestError(f"{printable(job.out)} was removed just now: run it again")
        plan, kept = self._plan(request, rows, shard_images, dataset)
        measured = self._extract(plan, kept)
        made = None if self.shared.get("missing") else read_header(job.out)
        return self._outcome("complete", made, measured)

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

    def _outcome(self, status: str, header: Any, measured: int) -> dict[str, Any]:
        return {
            "store": str(self.job.out),
            "status": status if header else "unfinished",
            "images": header.n_images if header else None,
            "measured": measured,
            "not_checked": [name for name, _ in self.unchecked],
            "digest": header.digest if header else None,
            "fingerprint": header.fingerprint if header else None,
            "seconds": round(time.monotonic() - self.started, 3),
            **self.shared,
        }

    def _require_packages(self) -> None:
        missing = [name for name in ("PIL", "safetensors") if find_spec(name) is None]
        if missing:
            raise RequestError(
                f"extraction needs more packages than analysis: {install_command('extract')}"
            )

    def _identify_encoder(self) -> EncoderIdentity:
        from frictionstore.extract.encoder.checkpoints import find_checkpoint, read_checkpoint

        job = self.job
        if job.engine == "geolip" and is_upstreams_name(job.encoder):
            upstream = self._load_upstream(job.encoder)
            return EncoderIdentity(upstream.config, upstream.weights_sha256)
        try:
            self.source = find_checkpoint(
                job.encoder, self.report, show_progress=self.show_progress
            )
        except AwayError as error:
            file = parse_hub_file(job.encoder)
            origin, known = self.recorded.origin, None
            if file and file.commit_of(origin) and not self.overwrite and not self.repair:
                known = self.recorded.encoder(origin=str(origin))
            if known is None:
                raise
            self.unchecked.append(("the encoder's weights", error))
            return known
        known = self.recorded.encoder(file_sha256=self.source.sha256)
        if known is not None:
            return known
        self._require_torch_for(self.source.path)
        self.checkpoint = read_checkpoint(self.source)
        return EncoderIdentity(self.checkpoint.config, self.checkpoint.weights_sha256)

    def _find_dataset(self) -> Dataset:
        """The data set; where the store at the target tells enough of it, without torchvision."""
        from frictionstore.extract.data.choose import RecordedSet

        told = None if self.overwrite or self.repair else self.recorded.dataset()
        if told is not None and self.recorded.files_are_still_there():
            return self._limited(RecordedSet(*told))
        try:
            return self._open_dataset()
        except DatasetError as error:
            if told is None:
                raise
            self.unchecked.append(("the images of the data set", error))
            return self._limited(RecordedSet(*told))

    def _open_dataset(self) -> Dataset:
        from frictionstore.extract.data.base import DatasetOptions
        from frictionstore.extract.data.choose import open_dataset

        job = self.job
        options = DatasetOptions(
            job.split, job.count, job.seed, job.data_root, job.download, job.skip_unreadable
        )
        return self._limited(open_dataset(job.dataset, options, self.report))

    def _limited(self, dataset: Dataset) -> Dataset:
        from frictionstore.extract.data.base import Part

        self.dataset_images = len(dataset.ids)
        if self.job.limit is None:
            return dataset
        return Part(dataset, list(range(min(self.job.limit, len(dataset.ids)))))

    @staticmethod
    def _require_torch_for(path: Path) -> None:
        if path.suffix != ".safetensors":
            require_torch()

    def _load_upstream(self, encoder: Any) -> Any:
        require_torch()
        from frictionstore.extract.engines.devices import choose_device
        from frictionstore.extract.engines.geolip import load_upstream

        self.upstream = load_upstream(encoder, choose_device(self.job.device))
        return self.upstream

    def _row_shapes(self, identity: EncoderIdentity) -> dict[str, tuple[int, ...]]:
        from frictionstore.extract.encoder.config import SVAEConfig

        config = SVAEConfig.from_mapping(identity.config, self.job.encoder)
        job = self.job
        return schema.map_row_shapes(
            job.measured_maps, job.image_size, config.patch_size, config.D, job.repeats
        )

    def _plan(
        self,
        request: dict[str, Any],
        rows: dict[str, tuple[int, ...]],
        shard_images: int,
        dataset: Dataset,
    ) -> tuple[StorePlan, Dataset]:
        from frictionstore.extract.data.base import Part, whole
        from frictionstore.extract.data.choose import unreadable
        from frictionstore.format.groups import numbered
        from frictionstore.format.ids import check_ids

        attributes: dict[str, Any] = {}
        kept = dataset
        if self.job.skip_unreadable:
            bad = set(unreadable(dataset, self.job.image_size))
            kept = Part(dataset, [i for i in range(len(dataset.ids)) if i not in bad])
            shut = getattr(whole(dataset), "left_out", [])
            attributes["skipped"] = [dataset.ids[i] for i in sorted(bad)] + shut
            for count, what in ((len(bad), "images"), (len(shut), "folders")):
                if count:
                    self.report(f"{count:,} {what} cannot be read and are left out")
            if not kept.ids:
                raise RequestError("none of the images can be read: there is nothing to extract")
        check_ids(kept.ids)
        if self.grouping is not None:
            of_images = self.grouping.of(kept.ids, self.job.dataset)
            self.groups, attributes[schema.GROUP_NAMES] = numbered(of_images)
        return (
            StorePlan(request, len(kept.ids), rows, shard_images, kept.class_names, attributes),
            kept,
        )

    def _extract(self, plan: StorePlan, dataset: Dataset) -> int:
        require_torch()
        from frictionstore.extract.data.base import whole
        from frictionstore.extract.data.torchvision import TorchvisionSet

        opened = whole(dataset)
        if isinstance(opened, TorchvisionSet) and opened.read_from is not None:
            self.dataset_read = {
                "torchvision": version_of("torchvision"),
                "files": opened.read_from,
            }
        job = self.job
        with self._writer(plan) as writer:
            if writer.already_complete:
                said = "is sound: there is nothing to repair" if self.repair else "is complete"
                self.report(f"{printable(job.out)} {said}")
                return 0
            pending = sum(len(plan.units[number]) for number in writer.pending)
            measured, seconds = 0, 0.0
            if pending:
                began = time.monotonic()
                try:
                    measured = self._measure_units(writer, dataset, pending)
                except FrictionstoreError:
                    # a run that is late finds the folder gone: it has its name
                    if not writer.taken_over():
                        raise
                seconds = time.monotonic() - began
            if isinstance(writer, PartWriter):
                self.shared = left_to_others(writer, self.report)
                if self.shared["missing"]:
                    return measured
            writer.finalise(self._provenance(measured, seconds))
        self.report(
            f"{printable(job.out)} is complete: {plan.n_images:,} images"
            + (f" in {seconds:.1f} s ({measured / seconds:,.0f} images/s)" if measured else "")
        )
        if self.rounding.is_noise:
            self.report(self.rounding.sentence)
        return measured

    def _writer(self, plan: StorePlan) -> StoreWriter:
        from frictionstore.check.repair import what_to_keep

        if self.sharing.part is not None:
            return PartWriter(
                self.job.out, plan, parse_part(self.sharing.part), self.sharing.claim_timeout
            )
        repair = what_to_keep if self.repair else None
        return StoreWriter(self.job.out, plan, overwrite=self.overwrite, repair=repair)

    def _measure_units(self, writer: StoreWriter, dataset: Dataset, pending: int) -> int:
        from frictionstore.extract.measuring import loading_processes
        from frictionstore.extract.pipeline import extract_units

        job = self.job
        if self.sharing.cluster is not None:
            return self._on_cluster(self.sharing.cluster, writer, dataset, pending)
        with closing(self._engine(dataset)) as engine:
            run = provenance.of_run(engine)
            if isinstance(writer, PartWriter) and not self.sharing.allow_mixed_devices:
                writer.same_kind(device_kind(run))
            done = writer.plan.n_images - pending
            self.report(
                f"extracting {pending:,} images of {printable(job.dataset)} with "
                f"{printable(job.encoder)} on {run['device']} ({run['device_name']})"
                + (f"; {done:,} are done already" if done and not writer.shared else "")
            )
            with progress_bar(pending, "extracting", show=self.show_progress) as progress:
                return extract_units(
                    writer,
                    dataset,
                    engine,
                    image_size=job.image_size,
                    batch_size=job.batch_size,
                    workers=loading_processes(job, dataset),
                    run=run,
                    progress=progress,
                    seen=self.rounding.add,
                    groups=self.groups,
                )

    def _on_cluster(self, address: str, writer: StoreWriter, dataset: Dataset, pending: int) -> int:
        from frictionstore.extract.cluster import extract_on_cluster

        if self.job.engine != "native":
            raise RequestError("--cluster is for the engine native: leave --engine out")
        writer.written_elsewhere = True
        with progress_bar(pending, "extracting", show=self.show_progress) as progress:
            self.shared = extract_on_cluster(
                address, writer, self._measuring(dataset), report=self.report, progress=progress,
                allow_mixed_devices=self.sharing.allow_mixed_devices, rounding=self.rounding,
            )  # fmt: skip
        return int(self.shared.pop("measured"))

    def _engine(self, dataset: Dataset) -> Engine:
        job = self.job
        if job.engine == "geolip":
            from frictionstore.extract.engines.devices import choose_device
            from frictionstore.extract.engines.geolip import GeolipEngine

            upstream = self.upstream or self._load_upstream(self.source)
            if job.precision != "float32":
                raise RequestError("the engine geolip computes in float32: leave --precision out")
            return GeolipEngine(
                upstream,
                job.measured_maps,
                choose_device(job.device),
                value_range=dataset.value_range,
                gram=job.gram,
                repeats=job.repeats,
            )
        return self._measuring(dataset).engine(self.report)

    def _measuring(self, dataset: Dataset) -> Measuring:
        from frictionstore.extract.encoder.checkpoints import read_checkpoint
        from frictionstore.extract.measuring import Measuring

        job = self.job
        assert self.source is not None
        checkpoint = self.checkpoint or read_checkpoint(self.source)
        told = self.identity
        if told is None or (checkpoint.weights_sha256, as_json(checkpoint.config)) != (
            told.weights_sha256,
            as_json(told.config),
        ):
            raise RequestError(
                f"{printable(job.out)} says of {printable(self.source.path.name)} what is not so "
                "(its weights or its config): choose another target, or remove that store"
            )
        self.checkpoint = checkpoint
        return Measuring(job, checkpoint, self.source.path.name, dataset, self.groups)

    def _provenance(self, measured: int, seconds: float) -> dict[str, Any]:
        return {
            **provenance.of_job(self.job, measured, seconds),
            "dataset_images": self.dataset_images,
            "dataset_read": self.dataset_read,
            "encoder": provenance.of_encoder(
                self.job, self.source, self.identity, (self.checkpoint, self.upstream)
            ),
            "friction_against_exact": self.rounding.as_json(),
            **({"cluster": self.shared} if self.sharing.cluster else {}),
        }
