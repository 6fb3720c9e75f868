"""Benchmarks that a user runs on a machine of theirs; each compares two alternatives in one run.

- `conv` (against `reference`, the reference implementation): dynamic convolution, a layer or a whole step
- `loader`, `checkpoint`: loading images, saving
- `pairs`, `target`, `subprocess_steps`: interleaved measurement, device and precision, a process of its own

Benchmarks of the project's own parts are in the repository's docs/benchmarks; docs/notes/performance.md has results.
"""
