"""One process: who started it, what it tells its launcher, and how it ends. Imports no torch.

- `launcher`: rank and world size, from any launcher; `launcher_settings`: what the launcher was told about training
- `report`: heartbeats and results for the launcher; `stop`: signals that ask a run to stop; `end`: the one way out
"""
