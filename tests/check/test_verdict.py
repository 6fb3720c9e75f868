"""`dydist check` on networks that keep the promise and on ones that do not: real runs, real processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dydist.check import CheckOptions, EngineName, Verdict, check
from dydist.check.coupling import coupled_module
from dydist.errors import FailedError, UserError
from helpers import networks
from helpers.forked_check import fork_processes
from helpers.support import REPOSITORY

SMALL = "--data.name synthetic --parallel.shards 4 --optim.lr 0.02 --data.drop_last false --parallel.threads 1".split()
ONE = CheckOptions(processes=(1,), steps=2, images=2)
TWO = CheckOptions(processes=(1, 2), steps=4, images=2)
PLAIN = ("--model.factory", "helpers.networks:plain")


def checked(*flags: str, engine: EngineName = "exact", options: CheckOptions = TWO) -> Verdict:
    said: list[str] = []
    verdict = check([*SMALL, *flags], options, engine, progress=said.append, starter=fork_processes)
    assert len(said) >= 2 * len(verdict.rows)
    return verdict


def suspect(kind: str) -> tuple[str, ...]:
    return "--model.factory", "helpers.networks:suspect", "--model.options", f"{{kind: {kind}}}"


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        (ONE, ["1 process", "1 process, stopped after step 1, resumed on 1"]),
        pytest.param(
            TWO,
            ["1 process", "2 processes", "2 processes, stopped after step 2, resumed on 1"],
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_network_that_keeps_the_promise(options: CheckOptions, runs: list[str]) -> None:
    verdict = checked(*PLAIN, options=options)
    assert verdict.kept, verdict
    assert [row.run for row in verdict.rows] == runs
    assert (verdict.doubts, verdict.notes) == ((), ())


def test_a_count_of_calls_is_found_in_the_module_that_has_it() -> None:
    """No buffer, no draw: nothing but running it can tell."""
    verdict = checked(*suspect("Counting"), options=ONE)
    assert not verdict.kept
    assert verdict.rows[1].text == (
        "DIFFERS, first in the forward output of module 0.body.middle (Counting) at step 2, shard 0"
    )


@pytest.mark.long
def test_a_count_of_calls_on_two_processes() -> None:
    _, two, resumed = checked(*suspect("Counting")).rows
    # process 0 has shards 0 and 1, so shard 2 is the first that another process counts from 0
    assert two.text.endswith("output of module 0.body.middle (Counting) at step 1, shard 2")
    assert "module 0.body.middle (Counting)" in resumed.text


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("Noise", "draws by torch's randn_like"),
        ("PythonNoise", "draws by Python's random"),
        pytest.param("NumpyNoise", "draws by numpy.random", marks=pytest.mark.long),
        pytest.param("Moving", "changes its buffer mean in a forward pass", marks=pytest.mark.long),
    ],
)
def test_what_cannot_be_keyed_is_named_before_anything_runs(kind: str, told: str) -> None:
    verdict = checked(*suspect(kind))
    assert not verdict.kept
    assert verdict.rows == ()
    assert verdict.doubts[0] == f"module 0.body.middle ({kind}) {told}"


def test_a_module_that_mixes_the_images_of_a_batch() -> None:
    mixing = networks.suspect(10, kind="Centred")
    assert coupled_module(mixing, (3, 32, 32)) == "module 0.body.middle (Centred)"
    assert mixing.training
    assert coupled_module(networks.plain(10, (3, 32, 32)), (3, 32, 32)) is None


@pytest.mark.long
def test_fast_is_compared_by_losses_which_mixed_images_change() -> None:
    verdict = checked(*suspect("Centred"), engine="ddp", options=replace(TWO, steps=2))
    assert not verdict.kept
    assert "DIFFERS: step 1's loss differs by" in verdict.rows[1].text
    assert (
        "module 0.body.middle (Centred) computes an image's output from the other images" in verdict.notes[0]
    )


@pytest.mark.long
def test_a_shards_mean_does_not_depend_on_processes() -> None:
    verdict = checked(*suspect("Centred"))
    assert verdict.kept
    assert len(verdict.notes) == 1


def test_more_processes_than_shards() -> None:
    with pytest.raises(UserError, match=r"^parallel\.shards: 4 shards cannot be shared by 5 processes"):
        checked(options=CheckOptions(processes=(1, 5)))


@pytest.mark.long
def test_a_run_that_fails() -> None:
    with pytest.raises(FailedError, match=r"^check: the run on 1 process failed: step \d+: the loss is"):
        checked(*PLAIN, "--optim.lr", "1e30", options=ONE)


@pytest.mark.long
def test_an_order_that_each_interpreter_has_its_own_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of a set of strings: forked processes share it, those of a run do not."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests"))
    flags = [*SMALL, *suspect("OrderOfASet")]
    options = CheckOptions(processes=(1, 2, 3), steps=2, images=2)
    verdict = check(flags, options, "exact", progress=print)
    assert not verdict.kept
    assert any("output of module 0.body.middle (OrderOfASet)" in row.text for row in verdict.rows)


@pytest.mark.long
@pytest.mark.parametrize(
    "more", [("--train.precision", "bf16"), ("--train.ema_decay", "0.9"), ("--data.mixup", "0.2")]
)
def test_other_settings(more: tuple[str, ...]) -> None:
    small = ("--model.width", "0.0625")
    assert checked(*small, *more, options=CheckOptions(processes=(1, 2, 3), steps=4, images=2)).kept
    assert checked(*PLAIN, *more).kept


@pytest.mark.long
def test_fast() -> None:
    verdict = checked(*PLAIN, engine="ddp")
    assert verdict.kept, verdict
    assert all("equal up to rounding: step 1's loss differs by" in row.text for row in verdict.rows[1:])


@pytest.mark.long
@pytest.mark.parametrize("more", [(), ("--parallel.zero", "2")])
def test_deepspeed(more: tuple[str, ...]) -> None:
    assert checked("--model.factory", "helpers.networks:partly_frozen", *more, engine="deepspeed").kept


@pytest.mark.long
def test_a_compiled_network() -> None:
    verdict = checked("--model.width", "0.0625", "--train.compile", "true")
    assert verdict.kept, verdict
