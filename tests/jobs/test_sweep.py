"""Sweeps: which runs there are, which are left out, and two hundred of them on a real cluster."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from dydist.errors import UserError
from dydist.jobs.files import write_json
from dydist.jobs.submission import arrays as arrays_module
from dydist.jobs.submission.arrays import arrays
from dydist.jobs.submission.profile import parse_profile
from dydist.jobs.submission.registry import find
from dydist.jobs.submission.sbatch import Submission
from dydist.jobs.submission.status import statuses
from dydist.jobs.submission.submit import submit
from dydist.jobs.submission.sweep import parse_grid, points, prepare_sweep
from helpers.job_cluster import RECIPE, Cluster, flags

STAND_IN = """
import json, os, sys, time
from pathlib import Path
from dydist.process.report import ProcessReport
report = ProcessReport.from_environment()
report.start()
run = Path(sys.argv[1])
with (run / "ran").open("a") as file:
    file.write(os.environ["DYDIST_JOB"] + "\\n")
status = {"state": "done", "job": os.environ["DYDIST_JOB"], "started": time.time(), "updated": time.time()}
(run / "status.json").write_text(json.dumps({**status, "step": 1, "total_steps": 1}))
report.finish(0)
"""
"""In place of training, which would take two seconds of imports two hundred times."""


def test_a_grid_and_seeds_make_every_combination_with_names_that_say_what_differs() -> None:
    grid = parse_grid(["optim.lr=0.05,0.1", "model.attention=softmax"])
    assert grid == {"optim.lr": ["0.05", "0.1"], "model.attention": ["softmax"]}
    found = list(points(grid, 2))
    assert [point.name for point in found] == [
        "lr0.05-attentionsoftmax-seed0",
        "lr0.05-attentionsoftmax-seed1",
        "lr0.1-attentionsoftmax-seed0",
        "lr0.1-attentionsoftmax-seed1",
    ]
    assert found[1].flags == ("--optim.lr", "0.05", "--model.attention", "softmax", "--seed", "1")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lr", "is not FIELD=VALUE,VALUE"),
        ("optim.lr=0.1,", "is not FIELD=VALUE,VALUE"),
        ("optim.rate=1", "there is no field 'optim.rate'"),
        ("seed=1,2", "--seeds counts seeds"),
    ],
)
def test_a_wrong_grid(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_grid([word])


def test_what_is_done_is_left_out_and_what_is_wrong_refused(tmp_path: Path) -> None:
    profile = parse_profile({"gpus_per_node": 0}, "test")
    done = tmp_path / "s" / "lr0.1-seed0"
    done.mkdir(parents=True)
    (done / "status.json").write_text(json.dumps({"state": "done"}))
    words = ["--run.dir", str(tmp_path)]
    submission, found = prepare_sweep(
        "s", words, profile, grid={"optim.lr": ["0.1", "0.2"]}, seeds=1, parallel=None
    )
    assert submission is not None
    assert found["done"] == [str(done)]
    assert (
        found["submitted"]
        == [spec.run_dir for spec in submission.specs]
        == [str(tmp_path / "s" / "lr0.2-seed0")]
    )
    with pytest.raises(UserError, match=r"optim\.momentum: 2 is not allowed"):
        prepare_sweep("s", words, profile, grid={"optim.momentum": ["0.5", "2"]}, seeds=1, parallel=None)
    nothing, _ = prepare_sweep("s", words, profile, grid={"optim.lr": ["0.1"]}, seeds=1, parallel=None)
    assert nothing is None


@given(st.integers(1, 300), st.integers(1, 40), st.none() | st.integers(1, 40))
def test_arrays_hold_every_run_once_and_share_what_runs_at_once(
    runs: int, largest: int, parallel: int | None
) -> None:
    found = arrays(runs, largest, parallel)
    assert [run for array in found for run in range(array.start, array.stop)] == list(range(runs))
    assert all(1 <= array.stop - array.start <= largest for array in found)
    assert all(array.after is None or array.after < number for number, array in enumerate(found))
    free = [array for array in found if array.after is None]
    if parallel is None:
        assert len(free) == len(found)
    else:
        waited_for = [array.after for array in found if array.after is not None]
        assert len(set(waited_for)) == len(waited_for)  # so at most as many arrays run as are free at first
        assert sum(array.parallel or 0 for array in free) == parallel
        assert all(array.parallel and array.parallel >= 1 for array in found)


def test_a_larger_grid_submits_what_is_new_while_runs_are_queued(cluster: Cluster, tmp_path: Path) -> None:
    shared = ["--", *flags({**RECIPE, "run.dir": tmp_path})]
    common = ("sweep", "--cpu", "--json", "--name", "s", "--sbatch", "hold", "--grid")
    first = json.loads(cluster.dydist(*common, "optim.lr=0.1,0.2", *shared))
    assert len(first["jobs"]) == 2
    more = json.loads(cluster.dydist(*common, "optim.lr=0.1,0.2,0.3", *shared))
    assert [Path(run).name for run in more["queued"]] == ["lr0.1-seed0", "lr0.2-seed0"]
    assert [Path(run).name for run in more["submitted"]] == ["lr0.3-seed0"]
    assert len(more["jobs"]) == 1
    assert len(json.loads(cluster.dydist("status", "--json", str(tmp_path / "s")))) == 3
    nothing = json.loads(cluster.dydist(*common, "optim.lr=0.1,0.2,0.3", *shared))
    assert (len(nothing["queued"]), nothing["jobs"]) == (3, [])


def test_more_runs_than_an_array_takes_are_several_arrays(cluster: Cluster, tmp_path: Path) -> None:
    largest = int(
        cluster.run("bash", "-c", "scontrol show config | grep -oP 'MaxArraySize\\s*=\\s*\\K[0-9]+'")
    )
    if largest > 20:
        pytest.skip(f"MaxArraySize is {largest} here; DYDIST_TEST_SITE=strict has a cluster where it is 10")
    shared = ["--", *flags({**RECIPE, "run.dir": tmp_path})]
    words = ("sweep", "--cpu", "--name", "s", "--parallel", "4", "--sbatch", "hold", "--grid", "optim.lr=0.1")
    result = cluster.call(*words, "--seeds", str(largest + 3), *shared)
    assert result.returncode == 0, result.stderr
    assert "2 arrays, as SLURM takes no larger ones (MaxArraySize)" in result.stdout
    queued = cluster.run("squeue", "--me", "--noheader", "--array", "--format=%i %j")
    assert len(queued.splitlines()) == largest + 3


def test_where_one_of_several_arrays_is_refused_none_is_left(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_CONF", "PATH", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, cluster.env[name])
    profile = parse_profile({"gpus_per_node": 0, "sbatch": {"hold": True}}, "test")
    submission, _ = prepare_sweep("s", ["--run.dir", str(tmp_path)], profile, grid={}, seeds=4, parallel=1)
    assert submission is not None
    build = arrays_module.build_executor

    def second_goes_nowhere(part: Submission) -> Any:
        """SLURM itself refuses the array that is to wait for the first."""
        return build(
            part if part.after is None else replace(part, profile=replace(profile, partition="nowhere"))
        )

    monkeypatch.setattr(arrays_module, "build_executor", second_goes_nowhere)
    monkeypatch.setattr(arrays_module.slurm, "max_array_size", lambda: 2)
    with pytest.raises(UserError, match="SLURM refused the job: partition: "):
        submit(submission, recipe=None)
    assert not list(tmp_path.iterdir())
    assert not cluster.run("squeue", "--me", "--noheader")


@pytest.mark.long
def test_a_sweep_of_real_runs_goes_on_where_it_was(cluster: Cluster, tmp_path: Path) -> None:
    common = ["--cpu", "--json", "--name", "s", "--parallel", "2"]
    shared = flags({**RECIPE, "train.max_steps": 2, "run.dir": tmp_path})
    first = json.loads(cluster.dydist("sweep", *common, "--grid", "optim.lr=0.05,0.1", "--", *shared))
    assert len(first["jobs"]) == 2

    def ended() -> bool:
        found = json.loads(cluster.dydist("status", "--json", str(tmp_path / "s")))
        return [one["state"] for one in found] == ["done", "done"]

    cluster.wait(ended, 400, "both runs")
    rows = hparams_page(tmp_path / "s")
    for run in map(Path, first["all"]):
        shown, accuracy = rows[f"{run.name}/tensorboard"]
        assert f"lr{shown['optim.lr']:g}-seed{shown['seed']:g}" == run.name
        assert shown["model.kernels"] == 4
        assert accuracy == pytest.approx(json.loads((run / "status.json").read_text())["accuracy"])
    again = json.loads(cluster.dydist("sweep", *common, "--grid", "optim.lr=0.05,0.1", "--", *shared))
    assert (len(again["done"]), again["jobs"]) == (2, [])
    words = ("sweep", *common, "--dry-run", "--grid", "optim.lr=0.1,0.2", "--seeds", "2", "--", *shared)
    more = json.loads(cluster.dydist(*words))
    assert [Path(run).name for run in more["submitted"]] == ["lr0.1-seed1", "lr0.2-seed0", "lr0.2-seed1"]
    assert "#SBATCH --array=0-2%2" in more["sbatch"]


def hparams_page(logdir: Path) -> dict[str, tuple[dict[str, Any], float]]:
    """What TensorBoard's HParams page shows of each finished run: its hyper-parameters and its last test accuracy."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    tensorboard = TBContext(logdir=str(logdir), multiplexer=multiplexer, data_provider=provider)
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=100, allowed_statuses=[api_pb2.STATUS_SUCCESS]
    )
    page = list_session_groups.Handler(RequestContext(), Context(tensorboard), "", request).run()
    found = {}
    for group in page.session_groups:
        (session,) = group.sessions
        (accuracy,) = [one.value for one in session.metric_values if one.name.tag == "accuracy/test"]
        found[session.name] = (
            {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()},
            accuracy,
        )
    return found


@pytest.mark.long
def test_two_hundred_jobs(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is lost, none is doubled, at most so many run at once, and submitting and asking are quick."""
    for name in ("SLURM_CONF", "PATH", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, cluster.env[name])
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    profile = parse_profile({"gpus_per_node": 0, "preflight": "off"}, "test")
    submission, found = prepare_sweep(
        "many", ["--run.dir", str(tmp_path)], profile, grid={}, seeds=200, parallel=8
    )
    assert submission is not None
    stand_ins = (replace(spec, program=str(program), arguments=(spec.run_dir,)) for spec in submission.specs)
    began = time.monotonic()
    ids = submit(replace(submission, specs=tuple(stand_ins)), recipe=None)
    submit_s = time.monotonic() - began
    assert len(set(ids)) == 200
    (tmp_path / "many" / "sweep.json").write_text(json.dumps({"runs": found["all"]}))
    records = find(str(tmp_path / "many"))
    running = set()

    def ended() -> bool:
        states = [one.state for one in statuses(records)]
        running.add(sum(state in ("starting", "running", "stopping") for state in states))
        return set(states) == {"done"}

    cluster.wait(ended, 900, "all runs")
    began = time.monotonic()
    statuses(records)
    status_s = time.monotonic() - began
    ran = {run: (Path(run) / "ran").read_text().split() for run in found["all"]}
    assert [len(jobs) for jobs in ran.values()] == [1] * 200
    assert sorted(jobs[0] for jobs in ran.values()) == sorted(ids)
    assert max(running) <= 8
    print(f"\n200 jobs: submitted in {submit_s:.2f} s, status of all in {status_s:.2f} s")
    assert submit_s < 15
    assert status_s < 5


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("optim.lr=1e-3,0.001", ["1e-3"]),
        ("optim.lr=1,2,1.0,1", ["1", "2"]),
        ("optim.lr=0.0,-0.0", ["0.0"]),
        ("optim.kernel_lr=auto,1,1.0", ["auto", "1"]),
        ("model.kernels=4,+4", ["4"]),
        ("model.bias=true,True,no", ["true", "no"]),
        ("data.limit=null,5,~", ["null", "5"]),
        ("data.root=a,a/", ["a"]),
        ("optim.milestones=[0.5],[.50],0.5", ["[0.5]"]),
        ("optim.milestones=[0.1,1],[0.1, 1.0],[1.,1]", ["[0.1,1]", "[1.,1]"]),
    ],
)
def test_values_that_are_equal_make_one_run(
    word: str, kept: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    field = word.partition("=")[0]
    assert parse_grid([word]) == {field: kept}
    assert f"--grid: {field}: " in capsys.readouterr().err


def test_a_value_that_is_written_in_another_way_is_the_run_that_was_submitted(tmp_path: Path) -> None:
    """Its spelling, the order of fields and a list's blanks make no new run; a folder has one run's values."""
    profile = parse_profile({"gpus_per_node": 0}, "test")

    def sweep(*words: str) -> dict[str, list[str]]:
        submission, found = prepare_sweep(
            "s", ["--run.dir", str(tmp_path)], profile, grid=parse_grid(words), seeds=1, parallel=None
        )
        for spec in submission.specs if submission else ():
            write_json(
                Path(spec.run_dir) / "job.json", {"job": "1", "cluster": "local", "arguments": spec.arguments}
            )
            write_json(Path(spec.run_dir) / "status.json", {"state": "done"})
        return {state: [Path(run).name for run in runs] for state, runs in found.items()}

    first = ["lr1e-3-milestones_0.5_0.7_-seed0", "lr0.1-milestones_0.5_0.7_-seed0"]
    assert sweep("optim.lr=1e-3,0.1", "optim.milestones=[0.5,0.7]")["submitted"] == first
    found = sweep("optim.milestones=[0.5, 0.70],[0.9]", "optim.lr=0.001,1e-1,2")
    assert found["done"] == first
    assert len(found["submitted"]) == 4
    assert sweep("optim.lr=0.001")["done"] == []  # the default milestones: another run
    assert sweep("data.root=/x/y")["submitted"] == ["root_x_y-seed0"]
    with pytest.raises(UserError, match="two runs would have the folder"):
        sweep("data.root=/x_y")


def test_a_run_that_failed_is_known_by_every_way_to_write_it(tmp_path: Path) -> None:
    """Each submission writes its own spelling into job.json; the run keeps the folder of the first."""
    profile = parse_profile({"gpus_per_node": 0}, "test")

    def sweep(*words: str, old_order: bool = False) -> list[str]:
        submission, _ = prepare_sweep(
            "s", ["--run.dir", str(tmp_path)], profile, grid=parse_grid(words), seeds=1, parallel=None
        )
        assert submission is not None
        for spec in submission.specs:
            line = list(spec.arguments)
            last = line.index("--run.name") + 2
            line = line[: last - 4] + line[last:] + line[last - 4 : last] if old_order else line
            write_json(Path(spec.run_dir) / "job.json", {"job": "1", "cluster": "local", "arguments": line})
        return [Path(spec.run_dir).name for spec in submission.specs]

    first = ["lr1e-3-kernels2-seed0"]
    assert sweep("optim.lr=1e-3", "model.kernels=2", old_order=True) == first  # by a version before
    assert sweep("model.kernels=+2", "optim.lr=0.001") == first
    assert sweep("model.kernels=2", "optim.lr=0.001") == first
    assert sweep("optim.lr=0.0010", "model.kernels=2") == first
    assert sweep("optim.lr=0.001") == ["lr0.001-seed0"]


def test_lists_can_be_swept() -> None:
    assert parse_grid(["optim.milestones=[0.1,0.2],[0.3, 0.4]"]) == {
        "optim.milestones": ["[0.1,0.2]", "[0.3, 0.4]"]
    }
