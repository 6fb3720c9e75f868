"""What runs on the login node: jobs are submitted, listed, shown and cancelled.

- `profile`, `profile_rules`: a site's settings; `snapshot`: the code as it was; `job_secrets`: how secrets reach a job
- `submit`, `sbatch`, `arrays`: one job or an array of them; `sweep`: many runs
- `status`, `reasons`: what SLURM and the run folder say; `logs`, `task_log`: what jobs wrote; `preflight_report`
- `registry`: which jobs there are; `cancel`; `refusals`: what SLURM refuses, in one line
"""
