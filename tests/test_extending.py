"""An installed package adds a data set, a strategy and a storage by entry points."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dydist.checkpoint import open_storage, survey
from dydist.cli.main import main
from dydist.config.reader import read_config
from dydist.errors import UserError
from dydist.inference import load_trained
from helpers.pages import blocks, read
from helpers.support import REPOSITORY, train


def install(folder: Path, entries: str, name: str = "my-package") -> None:
    """What pip leaves of a package in site-packages, with these entry points."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def with_site() -> None:
    """In a training process."""
    sys.path.insert(0, os.environ["SITE"])


def test_a_package_adds_a_data_set_a_strategy_and_a_storage(site: Path, tmp_path: Path) -> None:
    for block in blocks("docs/extending.md"):
        if block.language == "python":
            file = site / block.text.splitlines()[0].removeprefix("# ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)
    listed = next(block.text for block in blocks("docs/extending.md") if "entry-points" in block.text)
    install(site, re.sub(r'\[project.entry-points."(.*)"\]', r"[\1]", listed).replace('"', ""))
    shelf = f"shelf://{tmp_path}/shelf"
    flags = ["--data.name", "stripes", "--model.strategy", "patient", "--model.width", "0.0625"]
    flags += ["--train.batch_size", "16", "--train.max_steps", "1", "--parallel.threads", "1"]
    flags += ["--run.dir", str(tmp_path), "--monitor.quiet", "true", "--checkpoint.url", shelf]
    train(flags, 1, tmp_path / "log", before=with_site, SITE=str(site))
    train([*flags, "--train.max_steps", "2"], 1, tmp_path / "again", before=with_site, SITE=str(site))
    assert sorted(found.step for found in survey(open_storage(shelf))) == [1, 2]
    assert sorted(path.name for path in (tmp_path / "shelf").glob("step-*")) == [
        "step-000000001",
        "step-000000002",
    ]
    model = load_trained(str(tmp_path / "run"), open_storage, note=pytest.fail)
    assert model.data.classes == ("level", "upright")
    assert {part.strategy for part in model.network.modules() if hasattr(part, "strategy")} == {"patient"}
    assert main(["data", "prepare", "--name", "stripes", "--json"]) == 0


def test_what_a_package_adds_and_cannot_be_used_is_named(site: Path) -> None:
    install(site, "[dydist.data_sets]\nbroken = nowhere_at_all:DATA\nodd = os:sep\ntwice = a:b\n")
    install(site, "[dydist.data_sets]\ntwice = c:d\n", name="another")
    from dydist.data import open_dataset

    for name, told in (
        (
            "broken",
            "^broken: my-package adds it to dydist.data_sets as nowhere_at_all:DATA, which cannot be loaded: Mod",
        ),
        ("twice", "^twice: another and my-package both add it to dydist.data_sets; uninstall one of them$"),
        ("odd", "^data.name: no installed package adds a DataSet 'odd'"),
    ):
        with pytest.raises(UserError, match=told):
            open_dataset(read_config(["--data.name", name]).data, "train")
    for flag, told in (
        ("--data.name", "did you mean digits?"),
        ("--model.strategy", "or what an installed package adds"),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            read_config([flag, "digit"])
    with pytest.raises(UserError, match=r"^checkpoint.url: .* there is no protocol shelves://"):
        open_storage("shelves://a/b").folders()


def test_an_ordinary_start_looks_for_no_packages() -> None:
    code = (
        "import sys; from dydist.config.reader import read_config; from dydist.data import open_dataset;"
        "open_dataset(read_config(['--config', 'quickstart']).data, 'train');"
        "from dydist.user_function import _entry_points; print(_entry_points.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_the_page_names_every_group() -> None:
    named = set(re.findall(r"dydist\.(data_sets|strategies|stores)\b", read("docs/extending.md")))
    assert named == {"data_sets", "strategies", "stores"}
