"""Measurements inside the training loop. Imports torch.

- `probe`: combines all of them; `attention`, `weights`: the network; `timing`, `stragglers`, `profiling`: time
- `evaluation`: per-class results; `graph`: the network's graph
"""
