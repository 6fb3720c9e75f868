"""Draws that follow from their name alone, today as in every run that is resumed."""

from __future__ import annotations

from dydist.randomness import derived_seed, generator


def test_todays_draws_stay_as_they_are() -> None:
    """A change here breaks every run that is resumed across it."""
    assert generator(0, "augment", 7, 3).integers(1000, size=4).tolist() == [143, 555, 363, 863]
    assert derived_seed(0, "weights") == 8432303663033437212
    assert derived_seed(5, "weights", 1, 2) == 6236598056852103750


def test_every_part_of_the_name_counts() -> None:
    names = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 1, 23), (0, "a", 12, 3)]
    assert len({derived_seed(*name) for name in names}) == len(names)
    assert len({generator(*name).integers(2**60) for name in names}) == len(names)


def test_a_seed_fits_63_bits_and_uses_them() -> None:
    seeds = [derived_seed(seed, "weights") for seed in range(64)]
    assert 2**62 < max(seeds) < 2**63
    assert {seed % 2 for seed in seeds} == {0, 1}
