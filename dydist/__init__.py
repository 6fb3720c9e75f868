"""dydist: training jobs for dynamic-convolution networks. Importing it imports neither torch nor deepspeed.

In programs of one's own (docs/python.md): `dydist.train(…)`, `dydist.submit(…)`, `dydist.status(…)`, `dydist.load(…)`.

- `train`: one process of a run; `run`: the parts of a run
- `config`: the configuration; `schedules`, `randomness`: learning rate, temperature and random draws by step
- `models`, `data`, `engine`: the network, the images, and the loop over both
- `checkpoint`, on `storage`: saving and restoring; `monitor`: display and logs, from `records`
- `process`: a process, its launcher and its exit; `jobs`: runs on a cluster
- `named_run`: finds the run that a path names; `compare`, `inference`: uses of finished runs
- `check`, `bench`: short runs that compare
- `cli`: the `dydist` command
- `errors`, `text`, `private_files`, `machine`: used by all packages; `user_function`: functions that the user names

docs/design.md has the allowed imports between packages; tests/test_packages.py enforces them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dydist.inference.loading import load as load
    from dydist.jobs.submission.interface import status as status
    from dydist.jobs.submission.interface import submit as submit
    from dydist.train import train as train

__version__ = "0.1.0"
_LAZY = {
    "load": "dydist.inference.loading",
    "status": "dydist.jobs.submission.interface",
    "submit": "dydist.jobs.submission.interface",
    "train": "dydist.train",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = import_module(_LAZY[name])
    return found if name == "train" else getattr(found, name)  # dydist.train is a module that can be called


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
