"""The matrices that repeats measure, against a scalar implementation of the definition."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from frictionstore.extract.conduit import dispatch, repeats  # noqa: E402
from frictionstore.extract.conduit.kernels.cpu import repeats as compiled  # noqa: E402
from frictionstore.extract.conduit.kernels.cpu.gram import gram_from_spectrum  # noqa: E402

# Random123's known answers for philox4x32-10.
KNOWN = [
    ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """In Python's unbounded whole numbers."""
    c, k = list(counter), list(key)
    for number in range(10):
        if number:
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
    return c


def scalar_moved(G: np.ndarray, repeat: int, patch: int, row: int, seed: int = 0) -> np.ndarray:
    n, key = len(G), [seed % 2**32, seed // 2**32]
    entries = [(i, j) for i in range(n) for j in range(i, n)]
    digits: list[int] = []
    for block in range(-(-len(entries) // 40)):
        for word in scalar_philox([block, repeat, patch, row], key):
            digits += [word * 3 ** (k + 1) // 2**32 % 3 for k in range(10)]
    result = G.copy()
    for (i, j), digit in zip(entries, digits, strict=False):
        change = np.float32(digit - 1) * np.spacing(np.abs(G[i, j]))
        result[i, j] = G[i, j] + change
        result[j, i] = G[j, i] + change
    return result


def matrices(n: int, count: int = 40) -> np.ndarray:
    """Not symmetric in their last bits, as those of the engines, and with every kind of number."""
    rng = np.random.default_rng(n)
    X = rng.standard_normal((count, n, n)).astype(np.float32)
    G = X @ X.swapaxes(1, 2)
    G[1] = 0
    G[2] *= np.float32(1e-40)  # below the normal numbers
    G[3] = np.exp2(np.round(np.log2(np.abs(G[3]))))  # ulp above and below differ
    G[4] = np.float32(2.0**-126)
    G[5] *= np.float32(1e30)
    G[6] = np.nextafter(np.float32(2.0), np.float32(1.0))
    G[7] = -G[7]
    return G


def moved(G: np.ndarray, numbers: range, patch: np.ndarray, row: np.ndarray, **more: object):
    """By both implementations, which agree to the bit."""
    given = (torch.from_numpy(G), numbers, torch.from_numpy(patch), torch.from_numpy(row))
    made = dispatch.moved(*given, **more).numpy()  # type: ignore[arg-type]
    seed = int(more.get("seed", 0))  # type: ignore[call-overload]
    by_torch = repeats.moved_by_torch(*given, more.get("S"), repeats.key_of(seed))  # type: ignore[arg-type]
    np.testing.assert_array_equal(made.view(np.uint32), by_torch.numpy().view(np.uint32))
    return made


@pytest.mark.parametrize(("counter", "key", "known"), KNOWN)
def test_known_answers(counter: list[int], key: list[int], known: str) -> None:
    expected = [int(word, 16) for word in known.split()]
    assert scalar_philox(counter, key) == expected
    arrays = repeats.philox(tuple(np.array([c]) for c in counter), tuple(key))
    assert [int(word[0]) for word in arrays] == expected
    assert [int(w) for w in repeats.philox(torch.tensor(counter), tuple(key))] == expected
    assert list(compiled._philox(tuple(counter), tuple(key))) == expected


@pytest.mark.parametrize("n", [1, 2, 4, 9, 16])
@pytest.mark.parametrize("seed", [0, 2**32 + 5])
def test_the_definition(n: int, seed: int) -> None:
    """n = 9 and 16 take more than one block of words; n = 4 exactly one word."""
    G = matrices(n)
    patch = np.arange(len(G)) % 7
    row = np.arange(len(G)) * 10_000_019
    row[-1] = 2**32 - 1
    made = moved(G, range(1, 4), patch, row, seed=seed)
    for repeat in (1, 2, 3):
        for b in range(len(G)):
            expected = scalar_moved(G[b], repeat, int(patch[b]), int(row[b]), seed)
            np.testing.assert_array_equal(
                made[repeat - 1, b].view(np.uint32), expected.view(np.uint32)
            )


def test_no_entry_moves_by_more_than_a_unit_and_all_three_ways_are_as_likely() -> None:
    n, count = 5, 20_000
    G = np.broadcast_to(np.float32(1.5), (count, n, n)).copy()
    made = moved(G, range(1, 3), np.arange(count) % 256, np.arange(count) // 256)
    e = (made - G) / np.float32(2.0**-23)
    np.testing.assert_array_equal(e, e.swapaxes(2, 3))
    assert set(np.unique(e)) == {-1.0, 0.0, 1.0}
    upper = e[:, :, *np.triu_indices(n)]
    for digit in (-1, 0, 1):  # 5 sigma
        share = (upper == digit).mean(axis=1)
        assert np.abs(share - 1 / 3).max() < 5 * np.sqrt(2 / 9 / count)
    # Uncorrelated between repeats, entries, patches and rows.
    np.testing.assert_array_less(np.abs((upper[0] * upper[1]).mean(axis=0)), 5 * 2 / 3 / count**0.5)
    products = (upper[0].T @ upper[0]) / count - 2 / 3 * np.eye(upper.shape[-1])
    assert np.abs(products).max() < 5 * 2 / 3 / count**0.5
    for step in (1, 256):
        shifted = (upper[0][step:] * upper[0][:-step]).mean(axis=0)
        assert np.abs(shifted).max() < 5 * 2 / 3 / (count - step) ** 0.5


@pytest.mark.parametrize("n", [4, 8])
def test_batch_order_threads_and_the_repeats_beside_change_nothing(n: int) -> None:
    G = np.concatenate([matrices(n)] * 60)
    patch, row = np.arange(len(G)) % 11, np.arange(len(G)) // 11
    whole = moved(G, range(1, 4), patch, row)
    order = np.random.default_rng(0).permutation(len(G))
    np.testing.assert_array_equal(
        moved(G[order], range(1, 4), patch[order], row[order]), whole[:, order]
    )
    np.testing.assert_array_equal(moved(G, range(2, 4), patch, row, threads=3), whole[1:])
    np.testing.assert_array_equal(
        moved(G[9:10], range(3, 4), patch[9:10], row[9:10])[0], whole[2, 9:10]
    )


@pytest.mark.parametrize("n", [2, 4, 8])
def test_from_a_spectrum(n: int) -> None:
    rng = np.random.default_rng(n)
    S = np.sort(rng.random((500, n), dtype=np.float32))[:, ::-1].copy()
    V = np.linalg.qr(rng.standard_normal((500, n, n)))[0].astype(np.float32)
    patch, row = np.arange(500), np.zeros(500, np.int64)
    G = gram_from_spectrum(S, V)
    made = moved(V, range(1, 3), patch, row, S=torch.from_numpy(S))
    np.testing.assert_array_equal(made, moved(G, range(1, 3), patch, row))
