"""Runs as cluster jobs: submission, launch on the nodes, supervision and requeueing.

- `submission`: code for the login node; `node`: code for the compute nodes. From `node`, `submission` only uses the
  function that a job calls, and `scratch`.
- Shared: `spec` (the job's parameters), `decide` (whether it is requeued), `batch_script` and `launch` (starting
  tasks and processes), `attempt` and `files` (the files of its starts), `slurm` with `slurm_environment` (SLURM's
  commands).
"""
