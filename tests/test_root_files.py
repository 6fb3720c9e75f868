"""The files of the root agree with the package."""

from __future__ import annotations

import re
from importlib import metadata

import yaml

import dydist
from helpers.support import REPOSITORY


def test_the_version_is_the_same_everywhere() -> None:
    assert metadata.version("dydist") == dydist.__version__
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dydist.__version__
    released = re.findall(
        r"^## (\d+\.\d+\.\d+) ", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    assert released[0] == dydist.__version__


def test_the_hosted_workflow_runs_every_python_that_the_package_claims() -> None:
    claimed = {
        line.rpartition(":: ")[2]
        for line in metadata.metadata("dydist").get_all("Classifier") or []
        if re.search(r"Python :: 3\.\d+$", line)
    }
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    (setup,) = [step for step in jobs["whole"]["steps"] if "setup-python" in step.get("uses", "")]
    run = {setup["with"]["python-version"], *jobs["versions"]["strategy"]["matrix"]["python"]}
    assert run == claimed
