"""A checkpoint is data: the function that it names is called if the user, or the user's own run, names it too."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dydist.compare.many import cost_of
from dydist.config import Config, DataConfig, ModelConfig
from dydist.config.reader import to_yaml
from dydist.errors import UserError
from dydist.inference import load_packaged
from dydist.inference.trust import refuse_foreign_code

CONFIG = Config(
    model=ModelConfig(factory="os:system", options={"command": "touch harmed", "depth": 1e-3}),
    data=DataConfig(name="factory", factory="os:getcwd"),
)


def run_of(config: Config, folder: Path) -> Path:
    (folder / "checkpoints/step-000000001").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


def allowed(where: Path | str, config: Config = CONFIG, given: str | None = None) -> bool:
    try:
        for section in ("model", "data"):
            refuse_foreign_code(config, section, where=str(where), given=given)
    except UserError as error:
        assert "which would be run here; if you trust it, give --factory os:" in str(error)  # noqa: PT017
        return False
    return True


def test_the_users_own_run_vouches_for_its_functions(tmp_path: Path) -> None:
    run = run_of(CONFIG, tmp_path / "run")
    for where in (run, run / "checkpoints", run / "checkpoints/step-000000001", f"file://{run}/checkpoints"):
        assert allowed(where)
    for model in ({"options": {"command": "touch other"}}, {"factory": "os:popen"}):
        assert not allowed(run, replace(CONFIG, model=replace(CONFIG.model, **model)))  # type: ignore[arg-type]
    assert not allowed(run, replace(CONFIG, data=replace(CONFIG.data, factory="os:abort")))
    (run / "config.yaml").chmod(0o666)
    assert not allowed(run)


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file away")
def test_a_run_of_somebody_else_does_not(tmp_path: Path) -> None:
    run = run_of(CONFIG, tmp_path / "run")
    os.chown(run / "config.yaml", 4321, 4321)
    assert not allowed(run)


def test_the_user_vouches_by_name(tmp_path: Path) -> None:
    for where in ("s3://bucket/run", tmp_path):
        assert not allowed(where)
        assert not allowed(where, given="os:system")
        assert allowed(where, given="os:system,os:getcwd")
    assert allowed("s3://bucket/run", Config())


def test_compare_does_not_build_the_network_of_a_run_that_is_not_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"model.factory": "os:system", "model.options.command": "touch harmed"}
    cost = cost_of(settings)
    assert (cost.parameters, cost.multiply_adds) == (0, 0)
    assert not (tmp_path / "harmed").exists()


def test_a_packaged_network_calls_what_the_user_names(tmp_path: Path) -> None:
    file = tmp_path / "n.safetensors"
    model = {"factory": "os:system", "options": {"command": "true"}}
    network = json.dumps({"model": model, "side": 32, "classes": ["a"]})
    save_file({"a": torch.zeros(1)}, file, {"dydist": "1", "network": network})
    with pytest.raises(UserError, match=r"names os:system with .*factory='os:system'"):
        load_packaged(file)
    with pytest.raises(UserError, match="os:system"):  # called, and it gives no network
        load_packaged(file, factory="os:system")
