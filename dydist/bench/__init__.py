"""Benchmarks that come with the package: each compares two ways within one run. docs/notes/performance.md has figures.

- `conv` (against `reference`, what public code does), `parts`: dynamic convolution, and where a step's time goes
- `engines`, `exact`: one back end or reduction against another
- `loader`, `loop`, `monitor`, `checkpoint`: what a run does beside arithmetic
- `scaling`: two processes against one here; `scaling_model`: many GPUs, on paper
- `pairs`, `place`, `local`, `subprocess_steps`: measuring in turns, on what device, and the processes of a measurement
"""
