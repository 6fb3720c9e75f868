"""dydist: training jobs for dynamic-convolution networks. Importing it imports neither torch nor deepspeed.

- `train`: one process of a run; `run`: what a run is made of
- `config`: what a run is; `schedules`, `randomness`: learning rate, temperature and draws, as functions of the step
- `models`, `data`, `engine`: the network, the images, and the loop over both
- `checkpoint` on `storage`: what survives; `monitor`: what is shown and written, from `records`
- `process`: a process, its launcher and its end; `jobs`: runs on a cluster
- `named_run`: which run a person means; `compare`, `inference`, `bench`: what is done with runs
- `cli`: the `dydist` command, over all
- `errors`, `text`, `private_files`, `machine`: used by all of them

docs/design.md says which package may import which; tests/test_packages.py holds that.
"""

__version__ = "0.1.0"
