"""One process: its launcher, what it reports to it, and how it exits. Does not import torch.

- `launcher`: rank and world size, from any launcher; `launcher_settings`: the launcher's options for training
- `report`: heartbeats and results for the launcher; `stop`: signals that ask a run to stop; `end`: exiting
- `local`: processes on this machine, for benchmarks and `dydist check`
"""
