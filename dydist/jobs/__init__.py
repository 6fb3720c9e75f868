"""Runs as jobs of a cluster: submitted, launched on its nodes, watched, and brought back.

On the machine that submits: `profile` (a site's settings) and `profile_rules`, `snapshot` (code as it was), `submit`
with `sbatch`, `batch_script`, `arrays` and `job_secrets` (how secrets reach a job), `sweep`, `status` with `reasons`
(SLURM's, in words), `logs`, `task_log`, `cancel`, `registry` (which jobs there are), `slurm` (its commands) with
`slurm_environment` and `refusals` (what it refuses), `report` (what a preflight found out).
On each node: `node` (the task), `context`, `preflight` with `checks`, `place_check` and `probe`, `supervise` with
`launch`, `watch`, `rendezvous` and `scratch`, `conclude` with `decide`. Between nodes: `attempt` and `files`. Between
both: `spec`.
"""
