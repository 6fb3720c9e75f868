"""Benchmarks, each of which compares two alternatives in one run. docs/notes/performance.md has results.

- `conv` (against `reference`, the reference implementation), `parts`: dynamic convolution, and the parts of a step
- `engines`, `exact`: one back end or reduction against another
- `loader`, `loop`, `monitor`, `checkpoint`: a run's work besides arithmetic
- `scaling`: two processes against one on this machine; `scaling_model`: a model of many GPUs
- `pairs`, `target`, `local`, `subprocess_steps`: interleaved measurement, device and precision, processes
"""
