"""The best contexts of each feature are the same, in whatever parts and order they are offered."""

from __future__ import annotations

import numpy as np
import pytest

from labeler.evidence.contexts import Contexts, Reservoir, concatenate, keep_best

_K = 5


def contexts(seed: int, n: int = 400, n_features: int = 30) -> Contexts:
    """Contexts of few ranks, so that many are equal; sorted by feature, as they are offered."""
    rng = np.random.default_rng(seed)
    n_entries = rng.integers(1, 4, n).astype(np.uint8)
    return Contexts(
        np.sort(rng.integers(0, n_features, n)).astype(np.int32),
        rng.integers(0, 20, n).astype(np.uint64),
        (1000 * seed + rng.permutation(n)).astype(np.uint32),
        n_entries,
        rng.integers(0, 32, int(n_entries.sum())).astype(np.uint8),
        rng.random(int(n_entries.sum())).astype(np.float32),
    )


def same(a: Contexts, b: Contexts) -> None:
    for name, value in vars(a).items():
        np.testing.assert_array_equal(value, getattr(b, name), err_msg=name)


@pytest.mark.parametrize("n_old", [1, 7, 150, 399])
def test_what_is_sorted_already_need_not_be_sorted_again(n_old: int) -> None:
    given = contexts(1)
    order = np.lexsort((given.start[:n_old], given.rank[:n_old], given.feature[:n_old]))
    old, new = given.take(order), given.take(np.arange(n_old, len(given)))
    same(keep_best(concatenate([old, new]), _K, 0, n_old), keep_best(given, _K, 0))


def test_the_best_are_those_of_lowest_rank_then_of_first_position() -> None:
    given = contexts(2)
    best = keep_best(given, _K, 0)
    order = np.lexsort((given.start, given.rank, given.feature))
    for feature in range(30):
        expected = [i for i in order if given.feature[i] == feature][:_K]
        np.testing.assert_array_equal(best.start[best.feature == feature], given.start[expected])


def test_a_reservoir_keeps_the_same_from_parts_in_any_order() -> None:
    parts = [contexts(seed, n=2500) for seed in range(8)]
    expected = keep_best(concatenate(parts), _K, 0)
    for order in (range(8), reversed(range(8))):
        reservoir = Reservoir(30, _K)
        for i in order:
            reservoir.offer(parts[i])
        (kept,) = reservoir.drain()
        same(kept, expected)
        assert reservoir.n_bytes == 0
