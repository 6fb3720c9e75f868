"""Runs as jobs of a cluster: submitted, launched on its nodes, watched, and brought back.

- `submission`: what runs on the login node; `node`: what runs on each compute node. Of the other, `submission` uses the
  function that a job calls, and `scratch`.
- Between both: `spec` (what a job is to do), `decide` (whether it comes back), `batch_script` and `launch` (how it
  starts its tasks and processes), `attempt` and `files` (what its starts leave in the run folder), `slurm` with
  `slurm_environment` (SLURM's commands).
"""
