from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dydist.jobs.node.scratch import Scratch, sweep

OWNER = """
import sys
from pathlib import Path
from dydist.jobs.node.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
print(scratch.path, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_owner_left_is_swept_up_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        left = Path(owner.stdout.readline().strip())
        assert sweep(tmp_path) == []
        owner.kill()
        owner.wait()
    with Scratch(tmp_path) as mine:
        assert sweep(tmp_path) == [left]
        assert list(tmp_path.iterdir()) == [mine]
    assert not list(tmp_path.iterdir())
