"""Reading a store as few times as possible: collectors fed by one loop over its chunks.

An analysis registers collectors, which are shared by key: two analyses that need the class
moments of one map get the same object. A collector may ask for another pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats, groups
from frictionstore.analyses.core.derived import AT, NOISY, Derived, n_repeats, repeat_of
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.moments import Moments
from frictionstore.analyses.core.source import (
    REPEATS,
    MapStore,
    class_labels,
    is_repeated,
    stored_maps,
)
from frictionstore.check.agreement import Agreement
from frictionstore.cores import cores
from frictionstore.progress import progress_bar
from frictionstore.text import listed, printable

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
        """Check the store and register collectors.

        A copy of the plan is prepared and asked for its result for every repeat of the measurement
        too, unless the plan's attribute `on_repeats` says that it sees to repeats itself.
        """

    def result(self) -> Result:
        """Return the result, after the passes."""


C = TypeVar("C", bound=Collector)


class Passes:
    """The passes over one store that a set of analyses share.

    Attributes
    ----------
    claims_only
        Of this only what claims are made of is used: what else takes time may be left out.
    """

    claims_only = False

    def __init__(self, store: MapStore) -> None:
        self.store = Derived(store)
        self._collectors: dict[Hashable, Collector] = {}
        self._repeated: dict[int, _Repeated] = {}
        self._reads: set[str] = set()

    @cached_property
    def repeats(self) -> list[_Repeat]:
        """The passes over each repeat of the measurement."""
        return [_Repeat(self, number) for number in range(1, n_repeats(self.store) + 1)]

    def share(self, key: Hashable, make: Callable[[], C], *, claimed: bool = True) -> C:
        """Return the collector registered under `key`, made now if there is none.

        Of one on which no claim rests (`claimed`) there is one for the measurement and its repeats.
        """
        if key not in self._collectors:
            self._collectors[key] = make()
        collector = self._collectors[key]
        self._reads |= set(collector.features)
        return cast(C, collector)

    def add(self, plan: Plan) -> None:
        """Prepare a plan, and a copy of it for each repeat of what it reads."""
        on_repeats = getattr(plan, "on_repeats", True) and not self.claims_only
        copies = [deepcopy(plan) for _ in self.repeats] if on_repeats else []
        self._reads = set()
        plan.prepare(self)
        reads = self._reads
        names = sorted(name for name in reads if is_repeated(self.store, name))
        if names and copies:
            for passes, copy in zip(self.repeats, copies, strict=True):
                copy.prepare(passes)
        agreement = {name: self.agreement(name) for name in names if copies}
        self._repeated[id(plan)] = _Repeated(plan, copies if names else [], agreement, reads)

    def agreement(self, feature: str) -> Agreement:
        """Return the shared collector of a feature's reliability."""
        return self.share(("agreement", feature), lambda: Agreement(measured(self, feature)))

    def attempt(self, plan: Plan) -> AnalysisError | None:
        """Add a plan; return why it cannot be done, and register nothing of it then."""
        before = dict(self._collectors)
        try:
            self.add(plan)
        except AnalysisError as error:
            self._collectors = before
            return error
        return None

    def result(self, plan: Plan) -> Result:
        """Return the result of a plan that was added, compared with those of its repeats."""
        result = plan.result()
        of = self._repeated[id(plan)]
        if of.copies:
            repeats = [copy.result() for copy in of.copies]
            result.compare(repeats, {name: one.least for name, one in of.agreement.items()})
        elif getattr(plan, "on_repeats", True) and not self.claims_only:
            result.caveats += noise_caveat(self.store, of.reads)
        result.caveats += self.store.caveats_of(of.reads)
        return recorded(result, self.store)

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
        passes.add(plan)
    passes.run(show_progress=show_progress)
    return [passes.result(plan) for plan in plans]


class _OnRepeat:
    """A collector that is given a repeat's maps under the names of the measurement's."""

    def __init__(self, collector: Collector, store: MapStore, repeat: int) -> None:
        self.collector = collector
        self._store = store
        self._repeat = repeat

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self._name(feature) for feature in self.collector.features)

    def _name(self, feature: str) -> str:
        return repeat_of(self._store, feature, self._repeat)

    def update(self, rows: slice, arrays: Arrays) -> None:
        given = {feature: arrays[self._name(feature)] for feature in self.collector.features}
        self.collector.update(rows, given)

    def end_pass(self) -> bool:
        return self.collector.end_pass()


class _Repeat(Passes):
    """The passes over one repeat of the measurement: part of those over the measurement."""

    claims_only = True

    def __init__(self, passes: Passes, repeat: int) -> None:
        self.store = passes.store
        self._passes = passes
        self._repeat = repeat
        self._repeated = {}

    def share(self, key: Hashable, make: Callable[[], C], *, claimed: bool = True) -> C:
        shared = self._passes._collectors
        mine = (self._repeat, key)
        if mine not in shared:
            if not claimed and key in shared:
                return cast(C, shared[key])
            made = make()
            if not any(is_repeated(self.store, name) for name in made.features):
                return self._passes.share(key, lambda: made)
            shared[mine] = _OnRepeat(made, self.store, self._repeat)
        return cast(C, cast(_OnRepeat, shared[mine]).collector)


class _Repeated(NamedTuple):
    """What was prepared for a plan, and the plan itself, so that its id stays its own."""

    plan: Plan
    copies: list[Plan]
    agreement: dict[str, Agreement]
    reads: set[str]


def measured(passes: Passes, feature: str) -> list[str]:
    """Return the names of a feature in the measurement and in every repeat."""
    numbers = range(1, len(passes.repeats) + 1)
    return [feature, *(repeat_of(passes.store, feature, number) for number in numbers)]


def noise_caveat(store: MapStore, features: Iterable[str]) -> list[str]:
    """Return the sentence that says of which maps nobody knows the noise, if there are any."""
    maps = sorted({name for one in features for name in stored_maps(store, one)} & {*NOISY})
    without = [name for name in maps if not is_repeated(store, name)]
    if not without:
        return []
    if not any(name.endswith(REPEATS) for name in store.maps):
        return ["measurement noise is not known: this store has no repeats"]
    return [
        f"measurement noise of {listed(without)} is not known: this store has no repeats of "
        f"{'it' if len(without) == 1 else 'them'}"
    ]


def recorded(result: Result, store: MapStore, grouped: MapStore | None = None) -> Result:
    """Record in a result what its store, a view of another, leaves out, and the groups it used.

    `grouped` is the store whose groups they are, where that may be another.
    """
    grouped = store if grouped is None else grouped
    selected = getattr(store, "selected_classes", None)
    if selected is not None:
        result.parameters["classes"] = list(selected)
    found = groups.described(grouped)
    if found is not None:
        result.parameters["image_groups"] = found
    result.caveats[:0] = getattr(store, "caveats", list)()
    result.caveats += caveats.independence(grouped.n_images, found)
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
        feature, _, repeat = name.partition(AT)
        name = f"{feature}{REPEATS}" if repeat else name
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

    def variances(self) -> NDArray[np.float64]:
        """Return the variance of each class, summed over positions and modes."""
        of = self.by_class
        return np.asarray(of.m2.reshape(of.n_groups, -1).sum(axis=1) / (of.count - 1.0))

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
