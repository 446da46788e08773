"""Analyses of friction maps: each reads a store and gives a result with error bars.

    >>> import frictionstore as fs
    >>> from frictionstore import analyses
    >>> result = analyses.f_statistic(fs.open("data/digits-speckle.zarr"))  # doctest: +SKIP

The folder lies at the top of the repository and is the package `frictionstore.analyses`: by the
link `frictionstore/analyses` in a checkout, as a plain folder in a wheel. The name `analyses` by
itself belongs to whoever has a folder of that name. Nothing is imported before it is used; nothing
here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple

if __name__ == "analyses":
    # Found by its folder's name: a second copy of every module, with classes of its own.
    raise ImportError(
        "this folder is the package frictionstore.analyses: write 'from frictionstore import "
        "analyses'"
    )

if TYPE_CHECKING:
    from frictionstore.analyses.center_edge import center_edge
    from frictionstore.analyses.class_distance import class_distance
    from frictionstore.analyses.compare import compare
    from frictionstore.analyses.content import content
    from frictionstore.analyses.conv_probe import conv_probe
    from frictionstore.analyses.core.errors import AnalysisError
    from frictionstore.analyses.core.memory_store import MemoryStore
    from frictionstore.analyses.core.moments import Moments
    from frictionstore.analyses.core.results import Result
    from frictionstore.analyses.everything import analyze_all
    from frictionstore.analyses.f_statistic import f_statistic
    from frictionstore.analyses.image_summary import image_summary
    from frictionstore.analyses.information import information
    from frictionstore.analyses.mode_variance import mode_variance
    from frictionstore.analyses.reliability import reliability
    from frictionstore.analyses.ridge_probe import ridge_probe
    from frictionstore.analyses.spatial_cv import spatial_cv
    from frictionstore.analyses.summary import summary

ENTRY_POINTS = "frictionstore.analyses"
"""Entry-point group through which other packages add analyses; each names a click command."""


class Registered(NamedTuple):
    """One analysis: a line of help, and where its click command is."""

    help: str
    target: str

    def load(self) -> Any:
        """Import and return the command."""
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


_BUILT_IN = {
    "spatial-cv": "Do maps have spatial structure? CV as in the notebook, and Moran's I.",
    "class-distance": "Do classes have different mean maps? Distances, noise floor, PERMANOVA.",
    "center-edge": "Do edge patches differ from central ones? Ratios and paired tests.",
    "f-statistic": "Where on the grid do classes differ? F, q and family-wise p by position.",
    "mode-variance": "Which mode varies most over the grid, and what share is between images?",
    "image-summary": "One row per image: mean, spread, extremes, entropy, hot spots.",
    "ridge-probe": "How well do maps classify images? Cross-validated ridge, paired comparisons.",
    "information": "What do friction and settle tell of the class beyond S? Bits, with floors.",
    "conv-probe": "A readout that keeps space: pooled 3 x 3 patches or a network, floors.",
    "reliability": "Would the same images give the same map? Reliability by scale, rounding error.",
    "content": "Do maps follow what the image shows? Gradient and variance, torus shifts, donors.",
    "compare": "Two stores or two maps of the same images: RSA, CKA, correlations, McNemar.",
    "summary": "The notebook's closing table, with an interval or p beside every number.",
}


class _Registry(Mapping[str, Registered]):
    """The built-in analyses, then those of other packages, found when first asked for."""

    def __getitem__(self, name: str) -> Registered:
        return _registered()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_registered())

    def __len__(self) -> int:
        return len(_registered())


@cache
def _registered() -> dict[str, Registered]:
    found = {
        name: Registered(text, f"{__name__}.{name.replace('-', '_')}:command")
        for name, text in _BUILT_IN.items()
    }
    for point in entry_points(group=ENTRY_POINTS):
        package = point.dist.name if point.dist is not None else "another package"
        found.setdefault(point.name, Registered(f"From the package {package}.", point.value))
    return found


REGISTRY: Mapping[str, Registered] = _Registry()

_MODULES = {name.replace("-", "_") for name in _BUILT_IN}
_NAMES = {
    "AnalysisError": "core.errors",
    "MemoryStore": "core.memory_store",
    "Moments": "core.moments",
    "Result": "core.results",
    "analyze_all": "everything",
}

__all__ = [
    "REGISTRY",
    "AnalysisError",
    "MemoryStore",
    "Moments",
    "Result",
    "analyze_all",
    "center_edge",
    "class_distance",
    "compare",
    "content",
    "conv_probe",
    "f_statistic",
    "image_summary",
    "information",
    "mode_variance",
    "reliability",
    "ridge_probe",
    "spatial_cv",
    "summary",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")  # a module that can be called
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_NAMES})
