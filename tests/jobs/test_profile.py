from __future__ import annotations

from pathlib import Path

import pytest

from dydist.errors import UserError
from dydist.jobs.profile import Profile, load_profile, parse_profile

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
        ({"sbatch": {"mem": "1G"}}, "sbatch.mem: is a field of its own"),
        ({"hang_timeout_s": 0.0}, "hang_timeout_s: 0.0 is not allowed"),
        (["gpu"], "it holds a list; it must hold fields"),
    ],
)
def test_mistakes_are_named(text: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_profile(text, "site.yaml")


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse_profile({"nodes": "x", "colour": 1}, "site.yaml")
    assert str(caught.value).count("site.yaml: ") == 2
