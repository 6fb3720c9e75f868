from __future__ import annotations

from pathlib import Path

import pytest

from dydist.cli.launch_options import NodeOptions
from dydist.errors import UserError
from dydist.jobs.submission.profile import Profile, load_profile, parse_profile

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("file", sorted((REPOSITORY / "slurm").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_profiles_we_ship_are_right(file: Path) -> None:
    assert load_profile(file.stem, project=REPOSITORY, config_home=Path("/nowhere")).description


def test_the_users_own_profile_comes_first(tmp_path: Path) -> None:
    for folder, partition in ((tmp_path / "home", "mine"), (tmp_path / "slurm", "theirs")):
        folder.mkdir()
        (folder / "site.yaml").write_text(f"partition: {partition}")
    assert load_profile("site", project=tmp_path, config_home=tmp_path / "home").partition == "mine"


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("nodes: 3\nmodules: [cuda]\n")
    profile = load_profile(str(tmp_path / "x.yaml"), project=tmp_path, config_home=tmp_path)
    assert (profile.nodes, profile.modules) == (3, ("cuda",))


def test_no_profile_is_the_defaults(tmp_path: Path) -> None:
    assert load_profile(None, project=tmp_path) == Profile()


def test_an_unknown_profile_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "jade.yaml").write_text("")
    with pytest.raises(UserError, match=r"no profile 'jad'; did you mean jade\? \(known: jade;"):
        load_profile("jad", project=tmp_path, config_home=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"partitoin": "gpu"}, r"partitoin: a profile has no such field; did you mean partition\?"),
        ({"nodes": "two"}, "nodes: 'two' is not allowed; it must be a whole number"),
        ({"nodes": 0}, "nodes: 0 is not allowed; it must be at least 1"),
        ({"nodes": 2, "min_nodes": 3}, "min_nodes: 3 is more than nodes=2"),
        ({"time": "1 day"}, "time: '1 day' is not allowed; use minutes"),
        ({"gpus_per_node": 4, "processes_per_node": 2}, "one process a GPU"),
        ({"sbatch": {"--mem": "1G"}}, "sbatch.--mem: write it without dashes before: mem"),
        ({"sbatch": {"output": "x"}}, "sbatch.output: cannot be set here: logs lie in the run folder"),
        ({"sbatch": {"clusters": "b"}}, "sbatch.clusters: cannot be set here: set SLURM_CLUSTERS"),
        ({"sbatch": {"M": "b"}}, "sbatch.M: cannot be set here: set SLURM_CLUSTERS"),
        ({"sbatch": {"mem": "1G"}}, "sbatch.mem: is a field of its own"),
        ({"hang_timeout_s": 0.0}, "hang_timeout_s: 0.0 is not allowed"),
        (["gpu"], "it holds a list; it must hold fields"),
        ({"time": 86400}, "time: 86400 is not allowed; it must be a text; put it in quotes"),
        ({"time": "1:30\n"}, r"time: '1:30\\n' is not allowed; it must be one line"),
        ({"time": "٣"}, "time: '٣' is not allowed; use minutes"),
        ({"partition": ""}, "partition: '' is empty; give a value, or leave it out"),
        ({"partition": "a\n#SBATCH --x"}, "partition: .* is not allowed; it must be one line"),
        (
            {"nodes": 10**20},
            "nodes: a number of 67 bits is not allowed; it must be a whole number of at most",
        ),
        ({"nodes": 10**9}, "nodes: 1000000000 is not allowed; it must be at most 100000"),
        ({"warning_s": 10**5}, "warning_s: 100000 is not allowed; it must be at most 65535"),
        ({"hang_timeout_s": float("inf")}, "hang_timeout_s: inf is not allowed; it must be a number"),
        ({"start_timeout_s": float("nan")}, "start_timeout_s: nan is not allowed; it must be a number"),
        ({"env": {"A-B": "x"}}, "env.A-B: is not allowed as the name of a variable"),
        ({"env": {"1A": "x"}}, "env.1A: is not allowed as the name of a variable"),
        ({"env": {"A B": "x"}}, "env.A B: is not allowed as the name of a variable"),
        ({"env": {"": "x"}}, "env.: is not allowed as the name of a variable"),
        ({"env": {"Ä": "x"}}, "env.Ä: is not allowed as the name of a variable"),
        ({"env": {"A": None}}, "env.A: has no value; give a text, or '' for an empty one"),
        ({"env": {"A": ["x"]}}, "env.A: a list is not allowed; it must be a text"),
        ({"env": {"A": {"x": 1}}}, "env.A: a dict is not allowed; it must be a text"),
        ({"env": {"A": True}}, "env.A: a bool is not allowed; it must be a text; put it in quotes"),
        ({"env": ["A=1"]}, "env: .* is not allowed; it must be a mapping"),
        ({"env": {1: "x"}}, "env: .* is not allowed; it must be a mapping"),
        ({"modules": "cuda"}, "modules: 'cuda' is not allowed; it must be a list, each a text"),
        ({"sbatch": {"mem_per_cpu": "1G"}, "mem": "4G"}, "sbatch.mem_per_cpu: contradicts mem"),
        ({"sbatch": {"reservation": None}}, "sbatch.reservation: has no value"),
        ({"sbatch": {"exclude": ["n1", "n2"]}}, "sbatch.exclude: .* is not allowed; it must be one value"),
        ({"sbatch": {"reservation": "a\nb"}}, "sbatch.reservation: .* is not allowed; it must be one line"),
        ({"sbatch": {"a b": "x"}}, "sbatch.a b: is not the name of an option of sbatch"),
        ({"sbatch": {"part": "x"}}, "sbatch.part: is short for partition; is a field of its own"),
        ({"sbatch": {"outp": "x"}}, "sbatch.outp: is short for output; cannot be set here"),
        ({"sbatch": {"gpus": 4}}, "sbatch.gpus: cannot be set here: set gpus_per_node"),
        ({"srun": ["--ntasks=2"]}, "srun: '--ntasks=2' cannot be set here"),
        ({"srun": ["-n2"]}, "srun: '-n2' cannot be set here"),
        (
            {"gpus_per_node": 4, "gres": "gpu:2"},
            "gpus_per_node: 4 contradicts gres: 'gpu:2', which asks for gpu:2",
        ),
        ({"gres": "gpu:a100:4"}, "gpus_per_node: 1 contradicts gres: .*; set gpus_per_node to 4"),
        ({"gpus_per_node": 0, "gres": "gpu:4"}, "gpus_per_node: 0 contradicts gres"),
        ({"gpus_per_node": 2, "gres": "lustre:1"}, "gpus_per_node: 2 contradicts gres: .* asks for no gpu"),
    ],
)
def test_mistakes_are_named(text: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_profile(text, "site.yaml")


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse_profile({"nodes": "x", "colour": 1}, "site.yaml")
    assert str(caught.value).count("site.yaml: ") == 2


@pytest.mark.parametrize(
    "gres", ["gpu:4", "gpu:a100:4", "gpu:a100:2,gpu:v100:2", "gpu:4(S:0-1),lustre:1", "gres:gpu:4"]
)
def test_gres_that_says_the_same(gres: str) -> None:
    assert parse_profile({"gpus_per_node": 4, "gres": gres}, "site.yaml").gres == gres


@pytest.mark.parametrize("gres", ["gpu", "gpu:a100", "shard:2", "mps:50"])
def test_gres_of_one_gpu_or_a_part_of_one(gres: str) -> None:
    assert parse_profile({"gres": gres}, "site.yaml").gres == gres


@pytest.mark.parametrize(
    ("letter", "message"),
    [
        *((one, "is a field of its own") for one in ("p", "A", "q", "C", "N", "t", "c")),
        *((one, "cannot be set here") for one in ("n", "J", "o", "e", "a", "G", "W", "M")),
        *((one, "write its long name") for one in ("w", "x", "d", "b", "D", "H", "L")),
    ],
)
def test_options_of_one_letter(letter: str, message: str) -> None:
    """`--p x` says a thing twice, or is short for several names."""
    with pytest.raises(UserError, match=f"sbatch.{letter}: {message}"):
        parse_profile({"partition": "gpu", "sbatch": {letter: "x"}}, "site.yaml")


WRONG_FILES = [
    ("time: 24:00:00", 'time: 24:00:00 without quotes is a number of base 60 for YAML; quote it: "24:00:00"'),
    ("time: 1-00:00:00\nenv: {START: 12:30:00}", "env.START: 12:30:00 without quotes"),
    ("nodes: 1\nnodes: 2", "line 2: nodes is there twice, first in line 1"),
    ("env: {A: x}\nenv: {B: y}", "line 2: env is there twice"),
    ("env: {A: x, A: y}", "env.A is there twice"),
    ("nodes: 1_0", "nodes: '1_0' is not allowed; it must be a whole number"),
    ("nodes: 010", "nodes: '010' is not allowed; it must be a whole number"),
    ("nodes: ٣", "nodes: '٣' is not allowed; it must be a whole number"),
    ("env: {A: null}", "env.A: has no value"),
    ("env: {A: }", "env.A: has no value"),
    ("account: 123", "account: 123 is not allowed; it must be a text or null; put it in quotes"),
    ("partition: [", "cannot be read as YAML: line 1"),
    ("partition:\n\t- a", "indent with blanks, not tabs"),
    ("a: &a [*a]", "an alias stands for what it is in itself"),
    ("[" * 5000, "nested too deeply"),
    ("python: ~nobody-of-that-name/python", "python: '~nobody-of-that-name/python': there is no user"),
    ("python: ''", "python: '' is empty"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_FILES, ids=[message for _, message in WRONG_FILES])
def test_a_wrong_file_is_told_with_its_name(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_profile(str(file), project=tmp_path)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_variables_are_what_is_written(tmp_path: Path) -> None:
    """str() of what YAML reads made 1.1 of 1.10 and True of true."""
    file = tmp_path / "site.yaml"
    file.write_text(
        "env: {A: 1.10, B: true, C: off, D: 010, E: 1e3, F: '', G: 12, H: x y}\nsbatch: {nice: 010, hold: true}"
    )
    profile = load_profile(str(file), project=tmp_path)
    assert profile.env == {
        "A": "1.10", "B": "true", "C": "off", "D": "010", "E": "1e3", "F": "", "G": "12", "H": "x y",
    }  # fmt: skip
    assert profile.sbatch == {"nice": "010", "hold": True}


def test_the_interpreters_path_may_begin_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of/me")
    (tmp_path / "site.yaml").write_text("python: ~/env/bin/python")
    assert load_profile(str(tmp_path / "site.yaml"), project=tmp_path).python == "/home/of/me/env/bin/python"


def test_files_that_are_no_profile(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="there is no profile"):
        load_profile(str(tmp_path / "folder.yaml"), project=tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"partition: \xff")
    with pytest.raises(UserError, match="line 1: byte 0xff is not UTF-8"):
        load_profile(str(tmp_path / "bytes.yaml"), project=tmp_path)


@pytest.mark.parametrize(
    ("time", "warned"),
    [
        ("2", 30),
        ("00:02:00", 30),
        ("1:30", 22),
        ("8", 120),
        ("1-0", 120),
        ("24:00:00", 120),
        ("UNLIMITED", 120),
        ("0", 120),
        ("infinite", 120),
    ],
)
def test_the_warning_leaves_time_to_train(time: str, warned: int) -> None:
    """With two minutes and a warning two minutes before, a start would be asked to stop as soon as it began."""
    profile = parse_profile({"time": time}, "test")
    assert profile.effective_warning_s == warned
    assert bool(profile.note) == (warned != 120)


def test_a_flag_is_told_by_its_own_name() -> None:
    """Also one that sets another field of the profile."""
    with pytest.raises(UserError, match=r"^--reservation: 'a\\nb' is not allowed; it must be one line$"):
        NodeOptions(reservation="a\nb").merged()
    with pytest.raises(
        UserError, match=r"^--cpu: contradicts gres: 'gpu:2', .*; leave it out, or change gres$"
    ):
        NodeOptions(cpu=True, gres="gpu:2").merged()
