"""Experiment trackers: the scalars, images and configuration of the TensorBoard log, sent to W&B, MLflow or others.

- `protocol`: `Tracker`, what a tracker of your own implements (docs/trackers.md), and `TrackedRun`.
- `process`: `TrackerProcess`, the monitor; it starts a process for each tracker, and never waits for one.
- `child`: that process. `sender`: what it does: sends each step once, up to the newest checkpoint.
- `events`: reads the TensorBoard log by step. `record`: the run's identity there, in the run folder.
- `wandb`, `mlflow`: the trackers built in.
"""

from dydist.monitor.trackers.protocol import TrackedRun, Tracker

__all__ = ["TrackedRun", "Tracker"]
