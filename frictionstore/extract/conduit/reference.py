"""The conduit measurement, operation by operation: the definition that every kernel must meet.

Written to be read beside the definition, step by step, in its dtypes and its order. Arrays hold
the batch last, so `A[i, j]` is one entry of every matrix and each operation runs along the batch.
Every sum is written out in a fixed order: what one matrix gives never depends on its neighbours,
on the size of the batch or, up to n = 16, on the device. Dispatch and input checks are in
`dispatch.py`.

The order of sums, where the definition leaves it open:

- a product of matrices adds its terms from the first index to the last, in some columns with one
  rounding each (see `sums.fused_columns`); above n = 16, it is the library's;
- sums over all entries have the order that `sums.py` describes;
- products with the identity are not carried out: `M_1 = I`, `A M_1 = A`, `X = I` before the first
  Newton-Schulz round.

Division and square root are the correctly rounded ones; `d / den` is `d` times the reciprocal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from frictionstore.extract.conduit import exact, sums
from frictionstore.extract.conduit.constants import (
    LARGEST_DEFINED_N,
    LARGEST_WRITTEN_OUT,
    SINGLE_PRECISION_LIMIT,
    ConduitConstants,
    guess_offsets,
)

ENTRIES_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 24}  # a core's cache; enough to fill a GPU


def _product(X: Tensor, Y: Tensor) -> Tensor:
    n = X.shape[0]
    if n > LARGEST_DEFINED_N:
        return torch.bmm(X.permute(2, 0, 1), Y.permute(2, 0, 1)).permute(1, 2, 0).contiguous()
    fused = sums.fused_columns(n)
    total = X[:, 0, None] * Y[None, 0, :]
    for m in range(1, n):
        x, y = X[:, m, None], Y[None, m, :]
        added = total[:, fused:] + x * y[:, fused:]
        if fused:
            added = torch.cat([_multiply_add(x, y[:, :fused], total[:, :fused]), added], dim=1)
        total = added
    return total


def _multiply_add(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """`x y + z` with one rounding: numbers of this size neither overflow nor underflow on the way.

    Boldo and Melquiond, IEEE Transactions on Computers 57(4), 2008: what is exact is added up with
    the last bit kept odd where anything is lost, so that the rounding at the end sees it.
    """
    if x.dtype == torch.float32:  # products are exact in float64
        made = _rounded_to_odd(*_two_sum(x.double() * y.double(), z.double()))
    else:
        product, rest = _two_product(x, y)
        high, low = _two_sum(z, rest)
        total, left = _two_sum(product, high)
        made = total + _rounded_to_odd(*_two_sum(left, low))
    # A zero is exact here, and has the sign that two roundings give it.
    return torch.where(made == 0, x * y + z, made.to(x.dtype))


def _two_sum(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The float64 sum and, exactly, what its rounding left out (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def _two_product(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The float64 product and, exactly, what its rounding left out (Dekker)."""
    product = x * y
    a, b = _halves(x)
    c, d = _halves(y)
    return product, ((a * c - product) + a * d + b * c) + b * d


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers of 26 bits whose sum is x."""
    scaled = x * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - x)
    return high, x - high


def _rounded_to_odd(total: Tensor, left: Tensor) -> Tensor:
    """The sum of the two, where `total` is their rounded sum; an inexact one ends in a 1."""
    bits = total.view(torch.int64)
    towards = torch.where((left > 0) == (total > 0), 1, -1)
    return torch.where((left != 0) & (bits & 1 == 0), bits + towards, bits).view(torch.float64)


def _sum_of_entries(X: Tensor) -> Tensor:
    return sums.over_entries(X.flatten(0, 1).unbind(0))


def _frobenius_norm(X: Tensor) -> Tensor:
    def fused_add(total: Tensor, x: Tensor) -> Tensor:
        # The square is exact in float64.
        return (total.double() + x.double() * x.double()).float()

    return _square_root(sums.of_squares(X.flatten(0, 1).unbind(0), fused_add))


def _divide(x: Tensor, y: float) -> Tensor:
    # A Python number as divisor is a multiplication by its reciprocal on some devices.
    return x / torch.full_like(x, y)


def _square_root(x: Tensor) -> Tensor:
    # PyTorch's own square root is off by one unit in the last place for many numbers on a CPU.
    return torch.from_numpy(np.sqrt(x.numpy())) if x.device.type == "cpu" else torch.sqrt(x)


def _add_to_diagonal(X: Tensor, c: Tensor) -> Tensor:
    X = X.clone()
    X.diagonal().add_(c[:, None])  # `diagonal` puts the matrix index last, behind the batch
    return X


def _scale(A: Tensor) -> tuple[Tensor, Tensor]:
    """Step 1 (float32): the matrices over their scale, and the scale."""
    n = A.shape[0]
    norm = _frobenius_norm(A)
    scale = _divide(norm, math.sqrt(n))
    scale = torch.where(scale < 1e-12, 1e-12, scale)
    return A / scale, scale


def _characteristic_polynomial(A: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Step 2 (float64), Faddeev-LeVerrier: `c_0 .. c_n` and `M_1 .. M_n`."""
    n = A.shape[0]
    identity = torch.eye(n, dtype=A.dtype, device=A.device)[:, :, None].expand_as(A)
    c = [torch.ones_like(A[0, 0])] * (n + 1)
    M = [identity]
    c[n - 1] = -sums.in_order([A[i, i] for i in range(n)])
    for k in range(2, n + 1):
        AM = A if k == 2 else _product(A, M[-1])
        M.append(_add_to_diagonal(AM, c[n - k + 1]))
        c[n - k] = -_divide(_sum_of_entries(A * M[-1]), k)
    return c, M


def _roots(
    c: Sequence[Tensor], guesses: Sequence[Tensor], constants: ConduitConstants
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Step 3 (the dtype of `c`): roots, friction (float32) and settle (uint8), slot by slot."""
    q = list(c)
    roots, frictions, settles = [], [], []
    for slot, guess in enumerate(guesses):
        d = len(guesses) - slot
        z = guess
        friction = torch.zeros_like(z, dtype=torch.float32)
        settle = torch.full_like(z, constants.iterations, dtype=torch.uint8)
        for t in range(constants.iterations):
            v, v1, v2 = q[d], torch.zeros_like(z), torch.zeros_like(z)
            for j in range(d - 1, -1, -1):
                v2 = v2 * z + v1
                v1 = v1 * z + v
                v = v * z + q[j]

            friction = friction + 1.0 / (v1.float().abs() + constants.delta)
            first = (v.abs() < constants.tau) & (settle == constants.iterations)
            settle = torch.where(first, t, settle)

            away = v.abs() > 1e-30
            divisor = torch.where(away, v, 1.0)
            G = torch.where(away, v1 / divisor, 0.0)
            H = torch.where(away, G * G - 2.0 * (v2 / divisor), 0.0)
            disc = (d - 1.0) * (d * H - G * G)
            disc = torch.where(disc < 0.0, 0.0, disc)
            plus, minus = G + _square_root(disc), G - _square_root(disc)
            den = torch.where(plus.abs() >= minus.abs(), plus, minus)
            move = den.abs() > 1e-20
            step = d * (1.0 / torch.where(move, den, 1.0))
            z = torch.where(move, z - step, z)

        running = q[d]
        for j in range(d - 1, -1, -1):
            q[j], running = running, q[j] + z * running

        roots.append(z)
        frictions.append(friction)
        settles.append(settle)
    return roots, frictions, settles


def _polish(z: Tensor, c: Sequence[Tensor], steps: int) -> Tensor:
    """Step 4 (float64): Newton steps on the original polynomial."""
    n = len(c) - 1
    for _ in range(steps):
        p, p1 = c[n], torch.zeros_like(z)
        for j in range(n - 1, -1, -1):
            p1 = p1 * z + p
            p = p * z + c[j]
        move = p1.abs() > 1e-30
        z = torch.where(move, z - p / torch.where(move, p1, 1.0), z)
    return z


def _eigenvector(root: Tensor, M: Sequence[Tensor]) -> Tensor:
    """Step 5 (float64, result float32): the longest column of `R(root)`, normalised."""
    n = len(M)
    R = M[0]
    for k in range(2, n + 1):
        R = _add_to_diagonal(M[1], root) if k == 2 else R * root + M[k - 1]
    squares = sums.in_order((R * R).unbind(0))
    column, longest = R[:, 0], squares[0]
    for j in range(1, n):
        longer = squares[j] > longest
        column = torch.where(longer, R[:, j], column)
        longest = torch.where(longer, squares[j], longest)
    return (column / (_square_root(longest) + 1e-30)).float()


def _newton_schulz(V: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Step 6 (float32): orthonormal columns, and how far they still are from it."""
    n = V.shape[0]
    identity = torch.eye(n, dtype=V.dtype, device=V.device)[:, :, None]
    Y = _product(V.transpose(0, 1), V)
    X = None
    for _ in range(rounds):
        W = 3.0 * identity - Y
        X = 0.5 * W if X is None else 0.5 * _product(X, W)
        Y = 0.5 * _product(W, Y)
    if X is not None:
        V = _product(V, X)
    error = _product(V.transpose(0, 1), V) - identity
    return V, _frobenius_norm(error)


def _rayleigh_quotients(A: Tensor, V: Tensor) -> Tensor:
    """Step 7a (float32): `lambda_i = v_i' A v_i` with the unscaled matrix."""
    return sums.in_order((V * _product(A, V)).unbind(0))


def _make_largest_entry_positive(V: Tensor) -> Tensor:
    """Step 7c: the sign of each eigenvector, by the first of its largest entries."""
    largest = V[0]
    for i in range(1, V.shape[0]):
        largest = torch.where(V[i].abs() > largest.abs(), V[i], largest)
    return torch.where(largest < 0.0, -V, V)


class _TensorOperations:
    """The `Operations` of `program.py` on tensors with one number per matrix."""

    def constant(self, x: float, like: Tensor) -> Tensor:
        return torch.tensor(x, dtype=like.dtype, device=like.device)

    def to_float32(self, x: Tensor) -> Tensor:
        return x.float()

    def to_float64(self, x: Tensor) -> Tensor:
        return x.double()

    def square_root(self, x: Tensor) -> Tensor:
        return _square_root(x)

    def absolute(self, x: Tensor) -> Tensor:
        return x.abs()

    def negative(self, x: Tensor) -> Tensor:
        return -x

    def where(self, mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(mask, x, y)

    def repeat(
        self, count: int, state: list[Tensor], body: Callable[[list[Tensor]], list[Tensor]]
    ) -> list[Tensor]:
        for _ in range(count):
            state = body(state)
        return state

    def each(
        self, values: list[Tensor], body: Callable[[Tensor], list[Tensor]]
    ) -> list[list[Tensor]]:
        return [body(x) for x in values]

    def in_parts(
        self,
        values: list[Tensor],
        body: Callable[[_TensorOperations, list[Tensor]], list[Tensor]],
    ) -> list[Tensor]:
        return body(self, values)

    def whole(self, values: list[Tensor]) -> list[Tensor]:
        return values


def measure_exact(A: Tensor, constants: ConduitConstants) -> dict[str, Tensor]:
    """`friction_exact` (float64) and `settle_exact` (uint8), by running `exact.py` on tensors.

    Parameters and what matrices that cannot be measured give: as `measure`.
    """
    entries = ENTRIES_AT_ONCE["cpu" if A.device.type == "cpu" else "cuda"]
    blocks = A.split(max(1, entries // A.shape[-1] ** 2))
    measured = [_measure_exact_block(block, constants) for block in blocks]
    return {name: torch.cat([fields[name] for fields in measured]) for name in measured[0]}


def _measure_exact_block(A: Tensor, constants: ConduitConstants) -> dict[str, Tensor]:
    n = A.shape[-1]
    rows = [list(row.unbind(0)) for row in A.permute(1, 2, 0).contiguous().unbind(0)]
    made = exact.measure(_TensorOperations(), rows, constants)

    def stacked(name: str) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*made[name], A[:, 0, 0].double())[:n])

    measured = made["measured_exact"][0] > 0
    friction, settle = stacked("friction_exact"), stacked("settle_exact")
    return {
        "friction_exact": torch.where(measured, friction, math.nan).T.contiguous(),
        "settle_exact": torch.where(measured, settle, constants.iterations)
        .T.to(torch.uint8)
        .contiguous(),
    }


def measure(A: Tensor, constants: ConduitConstants) -> dict[str, Tensor]:
    """All seven steps, with mode 0 the largest eigenvalue, in blocks that bound the memory.

    Parameters
    ----------
    A : Tensor of shape (B, n, n), float32
        Symmetric matrices. Both triangles are read.
    constants : ConduitConstants

    Returns
    -------
    dict of Tensor
        The fields of `Packet`, each with the batch first. Where the scale of a matrix or one of
        its Rayleigh quotients is not finite, everything measured on that matrix is NaN, settle is
        `iterations` and slot is `n-1 .. 0`.
    """
    n = A.shape[-1]
    entries = ENTRIES_AT_ONCE["cpu" if A.device.type == "cpu" else "cuda"]
    if LARGEST_WRITTEN_OUT < n <= LARGEST_DEFINED_N:
        entries //= 8  # what a fused product takes in between
    blocks = A.split(max(1, entries // n**2))
    measured = [_measure_block(block, constants) for block in blocks]
    return {name: torch.cat([fields[name] for fields in measured]) for name in measured[0]}


def _measure_block(A: Tensor, constants: ConduitConstants) -> dict[str, Tensor]:
    n = A.shape[-1]
    A = A.permute(1, 2, 0).contiguous()

    A_hat, scale = _scale(A)
    c, M = _characteristic_polynomial(A_hat.double())

    work = torch.float32 if n <= SINGLE_PRECISION_LIMIT else torch.float64
    diagonal = torch.stack([A_hat[i, i] for i in range(n)]).to(work).sort(dim=0).values
    guesses = [diagonal[i] + offset for i, offset in enumerate(guess_offsets(n))]
    roots, friction, settle = _roots([x.to(work) for x in c], guesses, constants)

    polished = [_polish(z.double(), c, constants.polish) for z in roots]
    V = torch.stack([_eigenvector(root, M) for root in polished], dim=1)
    V, residual = _newton_schulz(V, constants.newton_schulz)

    eigenvalues = _rayleigh_quotients(A, V)
    # Step 7b: ascending, equal values in the order of their slots; then mode 0 is the largest.
    order = eigenvalues.argsort(dim=0, stable=True).flip(0)
    V = _make_largest_entry_positive(V)
    slots = torch.arange(n, device=A.device)[:, None].expand_as(order)

    measured = torch.isfinite(scale) & torch.isfinite(eigenvalues).all(dim=0)
    order = torch.where(measured, order, slots.flip(0))
    fields = {
        "eigenvalues": eigenvalues.gather(0, order),
        "eigenvectors": V.gather(1, order.expand_as(V)),
        "friction": torch.stack(friction).gather(0, order),
        "char_coeffs": torch.stack(c[:n]).float(),
        "refinement_residual": residual,
    }
    fields = {name: torch.where(measured, x, math.nan) for name, x in fields.items()}
    settled = torch.stack(settle).gather(0, order)
    fields["settle"] = torch.where(measured, settled, constants.iterations)
    fields["slot"] = order.to(torch.uint8)
    return {name: x.movedim(-1, 0).contiguous() for name, x in fields.items()}
