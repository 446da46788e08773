"""With which other runs or machines an extraction shares its work, and what may be mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frictionstore.cluster import check_cluster
from frictionstore.errors import RequestError
from frictionstore.progress import Report
from frictionstore.store.part import CLAIM_TIMEOUT, PartWriter, parse_part
from frictionstore.text import printable


@dataclass(frozen=True)
class Sharing:
    """How the units of an extraction are shared.

    Attributes
    ----------
    part : str, optional
        ``I/N``: this run does every N-th unit, other runs do the rest.
    given_timeout : float, optional
        Seconds after which another part's claim is over.
    allow_mixed_devices : bool
    cluster : str, optional
        ``local``, ``local:N``, ``tcp://HOST:PORT`` or a scheduler file: a Dask cluster whose
        workers do the units.
    """

    part: str | None = None
    given_timeout: float | None = None
    allow_mixed_devices: bool = False
    cluster: str | None = None

    @property
    def claim_timeout(self) -> float:
        return CLAIM_TIMEOUT if self.given_timeout is None else self.given_timeout

    def check(self, *, overwrite: bool, repair: bool) -> None:
        """
        Raises
        ------
        RequestError
            Names options that contradict each other.
        """
        if self.cluster is not None:
            check_cluster(self.cluster)
            if self.part is not None:
                raise RequestError("--cluster and --part are two ways to share: choose one")
        if self.part is None:
            if self.given_timeout is not None:
                raise RequestError("--claim-timeout is of runs with --part I/N: leave it out")
            if self.allow_mixed_devices and self.cluster is None:
                raise RequestError("--allow-mixed-devices is of runs that share: leave it out")
            return
        parse_part(self.part)
        if overwrite or repair:
            raise RequestError(
                f"--{'overwrite' if overwrite else 'repair'} and --part do not go together, since "
                "other parts may be at work: do that in a run of its own"
            )


ALONE = Sharing()


def device_kind(run: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the last bits of a run: the device, without its number, and versions."""
    versions = run["versions"]
    return {
        "device": f"{str(run['device']).partition(':')[0]} ({run['device_name']})",
        "torch": run.get("torch"),
        **{name: versions.get(name) for name in ("frictionstore", "numpy")},
    }


def left_to_others(writer: PartWriter, report: Report) -> dict[str, int]:
    """``units`` of the store and how many are ``missing``, which is said."""
    units, recorded = len(writer.plan.units), writer.recorded_by_all
    if recorded < units:
        report(
            f"this part has ended: {recorded:,} of {units:,} units of {printable(writer.target)} "
            "are recorded, and the run that records the last finishes it"
        )
        for number, holder in writer.held_by_others.items():
            report(f"unit {number} is claimed by {holder}: run it again if that has died")
    return {"units": units, "missing": units - recorded}
