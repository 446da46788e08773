"""Orders 9 to 16 on a GPU: the code that it gets, run by the processor, and its PTX."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from frictionstore.extract.conduit import DEFAULTS, ConduitConstants, conduit_maps  # noqa: E402
from frictionstore.extract.conduit.constants import EXACT_FIELDS, FIELDS  # noqa: E402
from frictionstore.extract.conduit.kernels.gpu import looped  # noqa: E402

ALL = (*FIELDS, *EXACT_FIELDS)


@pytest.mark.parametrize(
    ("n", "step"),
    [(9, 40), *[pytest.param(n, 16, marks=pytest.mark.slow) for n in (10, 12, 13, 16)]],
)
def test_its_code_has_the_bits_of_the_cpu(n, step, some_matrices, assert_same_bits):
    """As many threads as three, each with matrices of its own in the shared room."""
    A = some_matrices(n, step)
    expected = conduit_maps(A, ALL, kernel="fused")
    assert np.isnan(expected["friction"]).any()
    for name, x in looped.measure(torch.from_numpy(A), ALL, DEFAULTS).items():
        assert_same_bits(x, expected[name], name)


@pytest.mark.slow
def test_what_is_asked_for_and_other_constants(some_matrices, assert_same_bits):
    A = some_matrices(9, 60)
    constants = ConduitConstants(3, 1, 0, 1e-6, 1e-4)
    expected = conduit_maps(A, ALL, kernel="fused", constants=constants)
    for want in (("settle",), ("friction_exact",), ("friction", "settle_exact"), ("char_coeffs",)):
        made = looped.measure(torch.from_numpy(A), want, constants)
        assert tuple(made) == want
        for name in want:
            assert_same_bits(made[name], expected[name], f"{want} {name}")


def test_threads_have_less_room_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as many blocks until they fit; not even one is an error for who halves the tile."""
    empty, refused = torch.empty, []

    def short(size: int, **options: object) -> torch.Tensor:
        if size > limit:
            refused.append(size // (looped.THREADS * 8))
            raise torch.cuda.OutOfMemoryError
        return empty(size, **options)

    monkeypatch.setattr(torch, "empty", short)
    limit = 3 * looped.THREADS * 8
    assert looped._room(13, 8, "cpu").numel() == limit
    assert refused == [13, 6]
    limit = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        looped._room(2, 8, "cpu")


@pytest.mark.parametrize("threads", [1, 2, 50])
def test_any_number_of_threads_measures_all(threads, hard_matrices, assert_same_bits):
    """Fewer than matrices, and more."""
    A = torch.from_numpy(hard_matrices(9, 10)[:40:2].copy())
    friction = torch.full((len(A), 9), -1.0, dtype=torch.float64)
    settle = torch.full((len(A), 9), 77, dtype=torch.uint8)
    kernel = looped.compiled(9, "exact", DEFAULTS)
    looped._on_processor(A, [friction, settle], kernel, threads)
    expected = conduit_maps(A, EXACT_FIELDS, kernel="fused")
    assert_same_bits(friction, expected["friction_exact"])
    assert_same_bits(settle, expected["settle_exact"])


def test_no_matrices() -> None:
    made = looped.measure(torch.empty((0, 9, 9)), ALL, DEFAULTS)
    assert {name: tuple(x.shape) for name, x in made.items() if name in ("friction", "settle")} == {
        "friction": (0, 9),
        "settle": (0, 9),
    }


def _operations(code: str) -> Counter[str]:
    return Counter(re.findall(r"^\s+(?:@!?%p\d+ )?([a-z]+\.[a-z0-9_.]+)", code, re.M))


@pytest.mark.parametrize(
    ("n", "what"),
    [
        (9, "exact"),
        pytest.param(9, "maps", marks=pytest.mark.slow),
        *[pytest.param(16, what, marks=pytest.mark.slow) for what in ("exact", "maps", "packet")],
    ],
)
def test_the_machine_code_rounds_as_the_program_says(n, what, tmp_path):
    """Every operation names its rounding; fused are the columns that the definition fuses only."""
    code, size = looped.ptx(n, what, DEFAULTS)
    names = _operations(code)
    arithmetic = {x for x in names if re.match(r"(add|sub|mul|div|sqrt|fma|rcp)\..*f(32|64)$", x)}
    assert {"add.rn.f64", "mul.rn.f64", "sqrt.rn.f64"} <= arithmetic
    assert all(".rn." in x for x in arithmetic), arithmetic
    assert not {x for x in names if re.search(r"approx|ftz|full", x)}
    fused = {x for x in names if x.startswith("fma")}
    assert bool(fused) == (n >= 12 and what != "exact")
    # Matrices are in the room, not in local memory, which is reserved for all threads there may be.
    assert not re.search(r"\.local[^;]*\[\d{4,}\]", code)
    assert size >= n * n * (4 if what == "exact" else 8 * (n - 1))

    triton = pytest.importorskip("triton")
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    if not assembler.exists():
        pytest.skip("Triton brings no assembler here")
    (tmp_path / "code.ptx").write_text(code)
    for capability in ("sm_80", "sm_90") if n == 9 and what == "exact" else ("sm_90",):
        done = subprocess.run(
            [assembler, f"-arch={capability}", "code.ptx", "-o", "code"],
            cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
