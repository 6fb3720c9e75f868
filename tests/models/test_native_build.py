"""Building the C++ kernels: once for all processes, into a cache, and an equal fall-back where it cannot be done."""

from __future__ import annotations

import functools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from dydist.models.strategies import dynamic_conv2d
from dydist.models.strategies.native import build, library, reason
from helpers.support import forked

COMPILER = shutil.which("g++") or shutil.which("c++")

CONVOLVE = """
import torch
from dydist.models.strategies import dynamic_conv2d
from dydist.models.strategies.native import library, reason
torch.manual_seed(0)
tensors = [t.requires_grad_() for t in (torch.randn(3, 8, 5, 5), torch.rand(3, 4), torch.randn(4, 6, 8, 3, 3))]
out = dynamic_conv2d(*tensors, None, (1, 1), (1, 1), strategy="fused")
out = out.sum() + dynamic_conv2d(*tensors, None, (5, 5), (1, 1), strategy="taps").square().sum()
out.backward()
torch.save([out.detach(), *(t.grad for t in tensors)], "result.pt")
print("native" if library() is not None else f"no native: {reason()}")
"""


def run(folder: Path, **environment: str) -> tuple[str, list[torch.Tensor]]:
    """Convolve in a process of its own whose cache is `folder`; return what it printed, and its tensors."""
    env = os.environ | {"DYDIST_CACHE": str(folder / "cache")} | environment
    code, text = forked(functools.partial(exec, CONVOLVE, {}), cwd=folder, log=folder / "log", env=env)
    assert code == 0, text
    return text.strip(), torch.load(folder / "result.pt")


@pytest.fixture(scope="module")
def fall_back(tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    said, plain = run(tmp_path_factory.mktemp("plain"), DYDIST_NATIVE="0")
    assert said == "no native: DYDIST_NATIVE=0"
    return plain


@pytest.mark.long  # the suite's first library is built for all; other sources, or another build.py, build anew
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_an_empty_cache_is_built_into(tmp_path: Path) -> None:
    assert run(tmp_path)[0] == "native"


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_fused_is_native_here_and_equals_its_fall_back(
    tmp_path: Path, fall_back: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test that fails when the slow path is taken in silence where the fast one should run."""
    assert library() is not None, reason()
    monkeypatch.chdir(tmp_path)
    exec(CONVOLVE, {})
    for ours, theirs in zip(torch.load("result.pt"), fall_back, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_without_a_compiler_it_says_so_and_computes_the_same(
    tmp_path: Path, fall_back: list[torch.Tensor]
) -> None:
    said, plain = run(tmp_path, PATH="", CXX="")
    assert said == "no native: no C++ compiler (set CXX, or install g++)"
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(plain, fall_back, strict=True))


def test_many_at_once_build_once(tmp_path: Path) -> None:
    """By a compiler that writes an empty library after a while."""
    log = tmp_path / "compiled"
    slow = tmp_path / "compiler"
    slow.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exit\necho x >> {log}\nsleep 0.3\n'
        'while [ "$1" != -o ]; do shift; done\n: > "$2"\n'
    )
    slow.chmod(0o755)
    with ThreadPoolExecutor(4) as pool:
        found = {
            future.result() for future in [pool.submit(build.build, str(slow), tmp_path) for _ in range(4)]
        }
    assert len(found) == 1
    assert log.read_text().count("x") == 1
    assert [path.name for path in found.pop().parent.iterdir() if path.suffix == ".so"] == ["kernels.so"]


def test_a_failing_compiler_is_quoted(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "no such flag" >&2; exit 1; }\n')
    broken.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"broken failed: no such flag"):
        build.build(str(broken), tmp_path / "cache")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("strategy", ["fused", "winograd"])
def test_bits_do_not_depend_on_the_number_of_threads(strategy: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 40, 7, 7, generator=generator, requires_grad=True)
    attention = torch.rand(9, 4, generator=generator, requires_grad=True)
    weight = torch.randn(4, 40, 40, 3, 3, generator=generator, requires_grad=True)

    def compute() -> list[torch.Tensor]:
        out = dynamic_conv2d(x, attention, weight, None, (1, 1), (1, 1), strategy=strategy)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), (x, attention, weight))]

    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        # The square's sum is torch's, and may depend on threads; its gradient does not.
        results.append(compute())
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[0], other, strict=True))


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("strategy", ["fused", "winograd"])
def test_an_image_does_not_depend_on_its_batch(strategy: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 16, 6, 6, generator=generator)
    attention = torch.rand(9, 4, generator=generator)
    weight = torch.randn(4, 24, 16, 3, 3, generator=generator)
    together = dynamic_conv2d(x, attention, weight, None, (1, 1), (1, 1), strategy=strategy)
    for i in range(9):
        alone = dynamic_conv2d(
            x[i : i + 1], attention[i : i + 1], weight, None, (1, 1), (1, 1), strategy=strategy
        )
        assert torch.equal(alone[0], together[i])


@pytest.mark.long
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_without_a_writable_cache_it_builds_in_a_private_temporary_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said, _ = run(tmp_path, DYDIST_CACHE=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    assert said == "native"
    private = tmp_path / f"dydist-{os.getuid()}"
    assert private.stat().st_mode & 0o777 == 0o700
    private.chmod(0o777)
    said, _ = run(tmp_path, DYDIST_CACHE=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    assert said.startswith("no native: ")
