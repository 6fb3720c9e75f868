"""What is measured inside the training loop. Imports torch.

- `probe`: all of them together; `attention`, `weights`: the network; `timing`, `stragglers`, `profiling`: time
- `evaluation`: per-class results; `graph`: the network's graph
"""
