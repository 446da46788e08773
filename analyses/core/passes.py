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
from frictionstore.analyses.core.collecting import merge, part_of, parts, seen
from frictionstore.analyses.core.derived import NOISY, Derived, Sketches, n_repeats, repeat_of
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.moments import Moments
from frictionstore.analyses.core.reading import Arrays, NotFinite, look, names_of, readers
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
from frictionstore.text import listed

if TYPE_CHECKING:
    from frictionstore.analyses.core.results import Result

THREADS = cores(8)
"""Threads that share the work on a chunk or a fold."""


class Collector(Protocol):
    """Something that takes in a store's chunks, a part of the images at a time.

    In every pass copies of it do that, one a part, perhaps on other machines, and what they have
    seen is merged into it in the order of the parts: see `collecting.merged`. One whose state does
    not come together in that way has `merge(found, *, first)` of its own; one that gathers chunks
    has `close()`, called after a part's last; one that takes a constant off all values has
    `look(arrays)`, called with the first chunk before the first pass; what copies for the parts
    need not have is named in `stays`.

    Attributes
    ----------
    features
        The maps it reads.
    state
        Names of the attributes that `update` changes. It changes nothing else.
    """

    @property
    def features(self) -> tuple[str, ...]: ...

    @property
    def state(self) -> tuple[str, ...]: ...

    def begin(self) -> None:
        """Set what `state` names to nothing seen, for this pass."""

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

        Collectors are fed and finished in the order in which they were registered. Parts of the
        images are read here, or by whom `readers` says. BLAS is held to one thread meanwhile:
        collectors share work among threads of their own, and threads of both kinds would wait for
        each other.

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
        for feature in self.store.unranked(name for c in active for name in c.features):
            sketches = Sketches(feature)
            self._pass([sketches], f"values of {feature}", show_progress)
            self.store.know_ranks(sketches)
        look(self.store, [c for c in active if hasattr(c, "look")])
        number = 1
        while active:
            active = self._pass(active, f"pass {number}", show_progress)
            number += 1

    def _pass(self, active: list[Any], label: str, show: bool) -> list[Any]:
        """Read all images once; return the collectors that need them again."""
        broken = NotFinite(names_of(active))
        together = [broken, *active]
        with progress_bar(self.store.n_images, label, after="computing", show=show) as advance:
            found = readers.get()(self.store, together, parts(self.store), advance)
            for number, of_part in enumerate(found):
                for collector in together:  # what was merged is let go of at once
                    merge(collector, of_part.pop(0), first=number == 0)
                    if broken.found:  # the others have not seen all of this part
                        break
            broken.check(self.store)
            return [collector for collector in active if collector.end_pass()]


def run(store: MapStore, plans: Sequence[Plan], *, show_progress: bool = False) -> list[Result]:
    """Do several analyses of one store together and return their results in order."""
    passes = Passes(store)
    for plan in plans:
        passes.add(plan)
    passes.run(show_progress=show_progress)
    return [passes.result(plan) for plan in plans]


class _OnRepeat:
    """A collector that is given a repeat's maps under the names of the measurement's."""

    def __init__(self, collector: Any, names: dict[str, str]) -> None:
        self.collector = collector
        self._names = names
        self.features = tuple(names.values())
        self.state = collector.state
        if hasattr(collector, "look"):
            self.look = self._look

    def part(self) -> _OnRepeat:
        return _OnRepeat(part_of(self.collector), self._names)

    def _given(self, arrays: Arrays) -> Arrays:
        return {feature: arrays[name] for feature, name in self._names.items()}

    def _look(self, arrays: Arrays) -> None:
        self.collector.look(self._given(arrays))

    def update(self, rows: slice, arrays: Arrays) -> None:
        self.collector.update(rows, self._given(arrays))

    def seen(self) -> dict[str, Any]:
        return seen(self.collector)

    def merge(self, found: dict[str, Any], *, first: bool) -> None:
        merge(self.collector, found, first=first)

    def begin(self) -> None:
        self.collector.begin()

    def end_pass(self) -> bool:
        return bool(self.collector.end_pass())


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
            names = {one: repeat_of(self.store, one, self._repeat) for one in made.features}
            shared[mine] = _OnRepeat(made, names)
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


class ClassMoments:
    """Moments of one map by class, the images without a label as one more group.

    Attributes
    ----------
    by_class : Moments of the labelled images, one group per class
    everything : Moments of all images, one group
    labelled : Moments of the labelled images, one group
    """

    state = ("_moments",)

    def __init__(
        self, feature: str, labels: NDArray[np.integer[Any]], n_classes: int, shape: tuple[int, ...]
    ) -> None:
        self.features = (feature,)
        self._feature = feature
        self._n_classes = n_classes
        self._labels = labels
        self._shape = shape
        self.begin()

    def begin(self) -> None:
        self._moments = Moments(self._n_classes + 1, self._shape)

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
