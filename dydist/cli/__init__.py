"""The `dydist` command.

- `main` has the overview and runs one subcommand; `arguments` reads its words by the function's signature
- The subcommands, one file per group: `jobs` (submit, status, logs, cancel), `preflight`, `sweep`;
  `check`, `checkpoint`, `data`, `files`; `compare`, `report`, `tensorboard`; `evaluate`, `predict`, `export`; `bench_*`
- `launch_options`, `jobs_view`, `trained`, `bench_output`: what several of them share
"""
