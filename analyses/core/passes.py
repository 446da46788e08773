"""Reading a store as few times as possible: collectors fed by one loop over its chunks.

An analysis registers collectors, which are shared by key: two analyses that need the class
moments of one map get the same object. A collector may ask for another pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.moments import Moments
from frictionstore.analyses.core.source import Logarithms, MapStore, class_labels
from frictionstore.cores import cores
from frictionstore.progress import progress_bar
from frictionstore.text import printable

if TYPE_CHECKING:
    from frictionstore.analyses.core.results import Result

THREADS = cores(8)
"""Threads that share the work on a chunk or a fold."""

Arrays = dict[str, NDArray[Any]]


class Collector(Protocol):
    """Something that takes in a store's chunks.

    Attributes
    ----------
    features
        The maps it reads.
    """

    @property
    def features(self) -> tuple[str, ...]: ...

    def update(self, rows: slice, arrays: Arrays) -> None:
        """Take in one chunk; maps have shape (image, row, col, mode)."""

    def end_pass(self) -> bool:
        """Finish one pass over all images; return whether another is needed."""


class Plan(Protocol):
    """One analysis of one store, asked for but not yet done."""

    def prepare(self, passes: Passes) -> None:
        """Check the store and register collectors."""

    def result(self) -> Result:
        """Return the result, after the passes."""


C = TypeVar("C", bound=Collector)


class Passes:
    """The passes over one store that a set of analyses share."""

    def __init__(self, store: MapStore) -> None:
        self.store: MapStore = Logarithms(store)
        self._collectors: dict[Hashable, Collector] = {}

    def share(self, key: Hashable, make: Callable[[], C]) -> C:
        """Return the collector registered under `key`, made now if there is none."""
        if key not in self._collectors:
            self._collectors[key] = make()
        return cast(C, self._collectors[key])

    def attempt(self, plan: Plan) -> AnalysisError | None:
        """Prepare a plan; return why it cannot be done, and register nothing of it then."""
        before = dict(self._collectors)
        try:
            plan.prepare(self)
        except AnalysisError as error:
            self._collectors = before
            return error
        return None

    def run(self, *, show_progress: bool = False) -> None:
        """Read the store until no collector needs another pass.

        Collectors are fed and finished in the order in which they were registered. BLAS is held to
        one thread meanwhile: collectors share work among threads of their own, and threads of both
        kinds would wait for each other.

        Raises
        ------
        AnalysisError
            If a map holds values that are not finite; all images are searched first.
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(limits=1, user_api="blas"):
            self._run(show_progress)

    def _run(self, show_progress: bool) -> None:
        active = list(self._collectors.values())
        number = 1
        while active:
            names = tuple(dict.fromkeys(name for c in active for name in c.features))
            broken = _NotFinite()
            label, n = f"pass {number}", self.store.n_images
            with progress_bar(n, label, after="computing", show=show_progress) as advance:
                for rows, arrays in self.store.iter_chunks(names):
                    maps = {name: _as_map(arrays[name]) for name in names}
                    broken.search(rows, maps)
                    if not broken.found:
                        for collector in active:
                            collector.update(rows, maps)
                    advance(rows.stop - rows.start)
                if broken.found:
                    raise broken.error(self.store)
                active = [collector for collector in active if collector.end_pass()]
            number += 1


def run(store: MapStore, plans: Sequence[Plan], *, show_progress: bool = False) -> list[Result]:
    """Do several analyses of one store together and return their results in order."""
    passes = Passes(store)
    for plan in plans:
        plan.prepare(passes)
    passes.run(show_progress=show_progress)
    return [recorded(plan.result(), passes.store) for plan in plans]


def recorded(result: Result, store: MapStore) -> Result:
    """Record in a result what its store, a view of another, leaves out."""
    selected = getattr(store, "selected_classes", None)
    if selected is not None:
        result.parameters["classes"] = list(selected)
    result.caveats[:0] = getattr(store, "caveats", list)()
    return result


def _as_map(values: NDArray[Any]) -> NDArray[Any]:
    """Return a map with a mode axis: maps of one number per patch have one mode."""
    return values[..., None] if values.ndim == 3 else values


class _NotFinite:
    """Counts values that are not finite, by map and image."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[int, int]]] = {}

    def search(self, rows: slice, maps: Arrays) -> None:
        for name, values in maps.items():
            if not np.issubdtype(values.dtype, np.floating):
                continue
            finite = np.isfinite(values)
            if finite.all():
                continue
            bad = (~finite).reshape(len(values), -1).sum(axis=1)
            images = np.flatnonzero(bad)
            self.found.setdefault(name, []).extend(
                (rows.start + int(i), int(bad[i])) for i in images
            )

    def error(self, store: MapStore) -> AnalysisError:
        name, images = next(iter(self.found.items()))
        total = sum(count for _, count in images)
        shown = ", ".join(
            f"{printable(str(store.image_ids[row]))!r} (row {row}: {count})"
            for row, count in images[:5]
        )
        more = f" and {len(images) - 5} more" if len(images) > 5 else ""
        values = "1 value that is" if total == 1 else f"{total} values that are"
        return AnalysisError(
            f"map {printable(name)!r} of {printable(store.name)} holds {values} NaN or infinite, "
            f"in {len(images)} of {store.n_images} images: {shown}{more}; extract these images "
            "again, or leave them out of the store"
        )


class ClassMoments:
    """Moments of one map by class, the images without a label as one more group.

    Attributes
    ----------
    by_class : Moments of the labelled images, one group per class
    everything : Moments of all images, one group
    labelled : Moments of the labelled images, one group
    """

    def __init__(
        self, feature: str, labels: NDArray[np.integer[Any]], n_classes: int, shape: tuple[int, ...]
    ) -> None:
        self.features = (feature,)
        self._feature = feature
        self._n_classes = n_classes
        self._labels = labels
        self._moments = Moments(n_classes + 1, shape)

    def update(self, rows: slice, arrays: Arrays) -> None:
        labels = self._labels[rows]
        groups = np.where(labels < 0, self._n_classes, labels)
        self._moments.update(arrays[self._feature], groups)

    def end_pass(self) -> bool:
        all_groups = self._moments.as_arrays()
        self.by_class = Moments.from_arrays(
            {name: values[: self._n_classes] for name, values in all_groups.items()}
        )
        self.everything = self._moments.pooled()
        self.labelled = self.by_class.pooled() if self._n_classes else self._moments.pooled()
        return False


def class_moments(passes: Passes, feature: str, n_modes: int) -> ClassMoments:
    """Return the shared class moments of one map."""
    store = passes.store
    labels = np.asarray(store.labels)
    n_classes = len(class_labels(store))
    shape = (*store.grid, n_modes)
    return passes.share(
        ("class moments", feature), lambda: ClassMoments(feature, labels, n_classes, shape)
    )
