"""Code for the login node: submits, lists, shows and cancels jobs.

- `profile`, `profile_rules`: a site's settings; `snapshot`: the copy of the code; `job_secrets`: passing secrets to a
  job
- `submit`, `sbatch`, `arrays`: one job or an array of them; `sweep`: many runs; `script`: the user's own program
- `interface`: `dydist.submit` and `dydist.status`
- `status`, `reasons`: the state of jobs, from SLURM and the run folder; `logs`, `task_log`: output of jobs;
  `preflight_report`
- `registry`: the user's jobs; `cancel`; `refusals`: SLURM's refusals in one line
"""
