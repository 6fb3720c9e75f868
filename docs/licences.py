"""Writes docs/licences.md from pyproject.toml and the installed packages' metadata: python docs/licences.py"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = Path(__file__).with_suffix(".md")
PURPOSES = {
    "accelerate": "starting processes, process groups, devices",
    "filelock": "one process a node converts data or compiles kernels",
    "fsspec": "checkpoints and logs at any URL",
    "numpy": "images, keyed random generators",
    "pillow": "reading pictures that are to be classified",
    "psutil": "memory and processes of a node",
    "PyYAML": "recipes, profiles, config.yaml",
    "rich": "progress and tables in the terminal",
    "safetensors": "tensors in checkpoints, without pickle",
    "scipy": "confidence intervals",
    "tenacity": "retries with back-off",
    "tensorboard": "event files and their viewer",
    "torch": "tensors, gradients, collectives",
    "torchvision": "downloads of CIFAR, the static ResNet-18 that tests compare with",
    "tyro": "help and subcommands from types",
    "deepspeed": "the DeepSpeed engine",
    "transformers": "not used by dydist; Accelerate's DeepSpeed plugin asks for it",
    "submitit": "jobs on SLURM, and locally the same way",
    "s3fs": "s3:// URLs",
    "sshfs": "sftp:// URLs, with ~/.ssh/config and host keys",
    "adlfs": "az:// URLs",
    "webdav4": "webdav:// URLs",
    "scikit-learn": "the digits of the quick start",
    "matplotlib": "PNG plots of reports",
    "mkdocstrings-python": "the API reference from docstrings",
    "zensical": "the documentation site",
    "wandb": "runs at W&B",
    "mlflow-skinny": "runs at MLflow: its client, without the server",
    "onnx": "export to ONNX",
    "onnxscript": "torch's ONNX exporter is written in it",
    "onnxruntime": "running an exported network to check it",
    "asyncssh": "an SFTP server for tests, beside OpenSSH's",
    "cheroot": "serves WebDAV in tests",
    "pyftpdlib": "an FTP server for tests",
    "wsgidav": "a WebDAV server for tests",
    "hypothesis": "tests over drawn inputs",
    "moto": "an S3 server for tests",
    "mypy": "types",
    "pytest": "tests",
    "pytest-cov": "coverage",
    "pytest-xdist": "tests on two cores at once",
    "ruff": "style",
    "triton": "two GPU kernels of `stacked`, interpreted and compiled without a GPU; comes with torch for NVIDIA GPUs",
    "types-PyYAML": "types for mypy",
    "types-psutil": "types for mypy",
}
"""What each direct dependency is for. tests/docs holds that none is missing, and none is listed that is not one."""
HEAD = """# Dependencies and licences

<!-- Written by docs/licences.py from pyproject.toml and the installed packages; do not edit. -->

dydist itself is under Apache-2.0 (`LICENSE`). These are the packages it names itself, as their own metadata states
their licences; what they in turn need comes under terms of its own. Lower bounds are in `pyproject.toml`, the versions
that were tested in `constraints.txt`. Nothing is pinned but there, so that pip neither takes a CUDA build where there
is no GPU, nor tries dozens of versions of botocore.

| package | extra | for | licence |
| --- | --- | --- | --- |
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| {name} | {extra or '–'} | {PURPOSES[name]} | {licence(name)} |"
        for name, extra in direct_dependencies()
    ]
    return HEAD + "\n".join(rows) + "\n"


def direct_dependencies() -> Iterator[tuple[str, str]]:
    """(package, extra or "") of each requirement in pyproject.toml, in order."""
    project = tomllib.loads((PAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, requirements in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        for requirement in requirements:
            name = re.match(r"[\w.-]+", requirement)
            if name is not None and name[0] != "dydist":
                yield name[0], extra


def licence(name: str) -> str:
    """What a package's metadata says: an SPDX expression, a licence's name, or its classifiers."""
    found = metadata.metadata(name)
    if text := found.get("License-Expression"):
        return str(text)
    named = [
        line.rpartition(" :: ")[2]
        for line in found.get_all("Classifier") or []
        if line.startswith("License :: OSI")
    ]
    text = (found.get("License") or "").strip()
    return ", ".join(named) or (
        text if text and "\n" not in text and len(text) < 60 else "see its LICENSE file"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
