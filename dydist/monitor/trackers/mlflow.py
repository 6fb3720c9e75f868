"""MLflow, through its client: https://mlflow.org/docs/latest/python_api/mlflow.client.html.

MLflow only appends: a value sent twice is there twice. With each step a tag says that it is complete; of the one step
that a kill may have left without it, what is there is not sent again.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dydist.monitor.trackers.protocol import TrackedRun

RUN, STEP = "dydist.run", "dydist.step"
"""Tags: the run's id, and the newest step that is complete."""
_BATCH, _PARAMS, _TEXT = 1000, 100, 500
"""MLflow's limits: metrics and parameters a call, and characters of a value in all of its releases."""
_STATUS = {"done": "FINISHED", "failed": "FAILED"}


class MlflowTracker:
    """One run of MLflow, at MLFLOW_TRACKING_URI, in MLFLOW_EXPERIMENT_NAME (default: dydist)."""

    place = ""

    def start(self, run: TrackedRun) -> int | None:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if "://" not in uri or uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        from mlflow import MlflowClient

        self._client = MlflowClient(uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "dydist"
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        found = self._find(number, run.id)
        if found is None:
            tags = {RUN: run.id, **({"dydist.replaces": run.replaces} if run.replaces else {})}
            found = self._client.create_run(number, run_name=run.name, tags=tags)
        elif found.info.status != "RUNNING":
            self._client.update_run(found.info.run_id, status="RUNNING")
        self._id = found.info.run_id
        if run.replaces and (replaced := self._find(number, run.replaces)) is not None:
            self._client.set_tag(replaced.info.run_id, "dydist.replaced_by", run.id)
        self._log_config(run.config, found.data.params)
        self.place = f"{uri}, run {self._id}"
        self._doubtful = True
        newest = found.data.tags.get(STEP)
        return None if newest is None else int(newest)

    def log(self, step: int, time: float, scalars: Mapping[str, float], images: Mapping[str, bytes]) -> None:
        from mlflow.entities import Metric, RunTag

        with tempfile.TemporaryDirectory(prefix="dydist-") as folder:
            for tag, image in images.items():
                path = Path(folder, f"{step:09d}.png")
                path.write_bytes(image)
                self._client.log_artifact(self._id, str(path), f"images/{_key(tag)}")
        there = self._there(step, scalars) if self._doubtful else set()
        metrics = [
            Metric(_key(tag), value, int(time * 1000), step)
            for tag, value in scalars.items()
            if _key(tag) not in there
        ]
        for part in _parts(metrics, _BATCH):
            self._client.log_batch(self._id, metrics=part)
        self._client.log_batch(self._id, tags=[RunTag(STEP, str(step))])
        self._doubtful = False

    def finish(self, state: str) -> None:
        self._client.set_terminated(self._id, _STATUS.get(state, "KILLED"))

    def _find(self, experiment: str, run_id: str) -> Any | None:
        found = self._client.search_runs([experiment], f"tags.`{RUN}` = '{run_id}'", max_results=1)
        return found[0] if found else None

    def _there(self, step: int, scalars: Mapping[str, float]) -> set[str]:
        """The keys that have a value of `step`."""
        keys = self._client.get_run(self._id).data.metrics
        return {
            key
            for key in map(_key, scalars)
            if key in keys and any(m.step == step for m in self._client.get_metric_history(self._id, key))
        }

    def _log_config(self, config: Mapping[str, Any], there: Mapping[str, str]) -> None:
        """Parameters cannot be changed there: the present value of a changed one becomes a tag."""
        from mlflow.entities import Param, RunTag

        values = {_key(name): str(value)[:_TEXT] for name, value in config.items()}
        params = [Param(name, value) for name, value in values.items() if name not in there]
        for part in _parts(params, _PARAMS):
            self._client.log_batch(self._id, params=part)
        changed = [RunTag(name, value) for name, value in values.items() if there.get(name, value) != value]
        if changed:
            self._client.log_batch(self._id, tags=changed)


def _key(tag: str) -> str:
    """A tag with the characters that MLflow allows in names."""
    return re.sub(r"[^\w\-. :/]", "_", tag, flags=re.ASCII)


def _parts(values: list[Any], size: int) -> Iterable[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
