"""The `dydist` command.

- `main` builds it of groups, a file each: `jobs` (submit, status, logs, cancel), `preflight`, `sweep`;
  `checkpoint`, `data`, `files`; `compare`, `report`, `tensorboard`; `evaluate`, `predict`, `export`; `bench_*`
- `launch_options`, `jobs_view`, `trained`, `bench_output`: what several of them share
"""
