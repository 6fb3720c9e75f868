"""dydist: training jobs for dynamic-convolution networks. Importing it imports neither torch nor deepspeed.

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

__version__ = "0.1.0"
