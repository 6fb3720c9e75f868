"""Learning rate and temperature: values worked out by hand, and the same on whoever asks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dydist.config import OptimConfig, TemperatureConfig
from dydist.schedules import learning_rate, temperature


def test_the_original_recipe_steps_down_at_half_three_quarters_and_85_percent() -> None:
    rates = [learning_rate(OptimConfig(), step=step, steps_per_epoch=10, epochs=40) for step in range(400)]
    assert rates[0] == rates[199] == 0.1
    assert rates[200] == rates[299] == pytest.approx(0.01)
    assert rates[300] == rates[339] == pytest.approx(0.001)
    assert rates[340] == rates[399] == pytest.approx(0.0001)


def test_warm_up_rises_in_a_line_and_reaches_the_peak() -> None:
    optim = OptimConfig(lr=1.0, warmup_epochs=0.5, schedule="cosine")
    rates = [learning_rate(optim, step=step, steps_per_epoch=8, epochs=4) for step in range(6)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 > rates[5]
    for schedule in ("cosine", "linear"):  # what follows takes the steps that are left: 4 to 32
        optim = OptimConfig(lr=1.0, lr_end=0.2, warmup_epochs=0.5, schedule=schedule)
        assert learning_rate(optim, step=18, steps_per_epoch=8, epochs=4) == pytest.approx(0.6)
        assert learning_rate(optim, step=31, steps_per_epoch=8, epochs=4) < 0.24


def test_cosine_and_linear_pass_through_their_middle_and_end() -> None:
    for schedule in ("cosine", "linear"):
        optim = OptimConfig(lr=1.0, lr_end=0.2, schedule=schedule)
        assert learning_rate(optim, step=50, steps_per_epoch=10, epochs=10) == pytest.approx(0.6)
        assert learning_rate(optim, step=100, steps_per_epoch=10, epochs=10) == pytest.approx(0.2)
        assert learning_rate(optim, step=1, steps_per_epoch=1, epochs=1) == pytest.approx(0.2)
    quarter = OptimConfig(lr=1.0, schedule="cosine")
    assert learning_rate(quarter, step=25, steps_per_epoch=10, epochs=10) == pytest.approx(0.8535533906)


def test_temperature_falls_by_epoch_to_its_end_and_stays_there() -> None:
    values = [temperature(TemperatureConfig(), step=step, steps_per_epoch=5) for step in range(100)]
    assert values[:5] == [30.0] * 5
    assert values[5:10] == [pytest.approx(27.1)] * 5
    assert values[45:50] == [pytest.approx(3.9)] * 5
    assert values[50:] == [1.0] * 50


def test_temperature_by_step_moves_every_step() -> None:
    schedule = TemperatureConfig(start=11, end=1, epochs=2, per="step")
    assert [temperature(schedule, step=s, steps_per_epoch=5) for s in range(12)] == [
        *(pytest.approx(11 - s) for s in range(10)),
        1.0,
        1.0,
    ]


def test_no_annealing_is_the_end_at_once() -> None:
    assert temperature(TemperatureConfig(epochs=0), step=0, steps_per_epoch=5) == 1.0


@given(
    st.integers(0, 10_000),
    st.integers(1, 500),
    st.integers(1, 50),
    st.sampled_from(["milestones", "cosine", "linear"]),
)
def test_a_schedule_stays_between_its_ends_and_depends_on_the_step_alone(
    step: int, steps_per_epoch: int, epochs: int, kind: str
) -> None:
    optim = OptimConfig(lr=0.3, lr_end=0.001, schedule=kind)  # type: ignore[arg-type]
    later = learning_rate(optim, step=step + 1, steps_per_epoch=steps_per_epoch, epochs=epochs)
    value = learning_rate(optim, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)
    assert 0 < later <= value <= 0.3
    assert value == learning_rate(optim, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)
