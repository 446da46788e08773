"""The same measurement again, on matrices moved by less than anybody can know them.

Repeat k = 1, 2, .. measures `G + E`: E is symmetric, and each entry of its upper triangle is
`e ulp(G_ij)` with e drawn from {-1, 0, 1}. The draws come from Philox4x32-10 (Salmon, Moraes, Dror
and Shaw, SC11, 2011), a function of key and counter: batch, order and device change nothing.

- key: the seed, low word first;
- counter: the block, the repeat k, the patch (row by row on the grid), the image's row in its data
  set;
- the four words of block 0, then those of block 1, ..: each, as a fraction of 2**32 written in base
  3, gives its first ten digits, less 1, to the entries of the upper triangle row by row. No digit's
  chance is off by more than 2e-5.

Whole numbers in int64 here, whose products wrap and whose words are masked: the same in NumPy,
Numba and PyTorch, on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from frictionstore.extract.conduit import sums

if TYPE_CHECKING:
    from torch import Tensor

SEED = 0  # of all extractions: what differs from one repeat to another is its number
AT_ONCE = 2  # repeats measured together
DIGITS = 10  # of a word
WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: Any, key: tuple[int, int]) -> Any:
    """Philox4x32-10: four words from four words (int64, of any kind) under a key of two."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A product may exceed int64: it wraps, and its 64 bits are right all the same.
        x, y = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (y >> 32 & WORD) ^ b ^ k0, y & WORD, (x >> 32 & WORD) ^ d ^ k1, x & WORD
        k0, k1 = k0 + _KEY_STEPS[0] & WORD, k1 + _KEY_STEPS[1] & WORD
    return a, b, c, d


def key_of(seed: int) -> tuple[int, int]:
    """The low and the high word of a seed."""
    return seed & WORD, seed >> 32


def moved_by_torch(
    A: Tensor, repeats: range, patch: Tensor, row: Tensor, S: Tensor | None, key: tuple[int, int]
) -> Tensor:
    """`dispatch.moved` on any device, in operations of PyTorch's."""
    import torch

    n = A.shape[-1]
    if S is not None:
        scaled = A * (S * S).unsqueeze(-2)
        A = sums.in_order([scaled[:, :, None, k] * A[:, None, :, k] for k in range(n)])
    result = A.permute(1, 2, 0).unsqueeze(2).repeat(1, 1, len(repeats), 1)  # entry by entry
    upper = [(i, j) for i in range(n) for j in range(i, n)]
    number = torch.tensor(repeats, device=A.device)[:, None]
    for (i, j), digit in zip(upper, _digits(len(upper), number, patch, row, key), strict=True):
        size = A[:, i, j].abs()
        change = (digit - 1) * (torch.nextafter(size, torch.full_like(size, torch.inf)) - size)
        result[i, j] += change
        if i != j:
            result[j, i] += change
    return result.permute(2, 3, 0, 1).contiguous()


def _digits(
    count: int, repeat: Tensor, patch: Tensor, row: Tensor, key: tuple[int, int]
) -> Iterator[Tensor]:
    """As many digits for each patch of each repeat."""
    zero = (repeat ^ patch) & 0
    for block in range(-(-count // (4 * DIGITS))):
        words = philox((zero + block, zero + repeat, zero + patch, zero + row), key)
        for number, word in enumerate(words):
            for _ in range(min(DIGITS, count - DIGITS * (4 * block + number))):
                word = word * 3
                yield word >> 32
                word = word & WORD
