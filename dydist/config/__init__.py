"""The configuration of a run. Importing it imports neither torch nor numpy, so that a mistake is told at once.

- `schema`: one frozen dataclass a section; `types`: what a field may be, beyond Python's own types
- `rules`: what values may stand together (`check_config`), and which fields do not decide a run's result
- `reader`: YAML files and flags become a `Config`; `help`: what `--help` prints
- `shipped`: recipes, launch files and profiles that come with the package
"""

from dydist.config.schema import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    MonitorConfig,
    OptimConfig,
    ParallelConfig,
    RunConfig,
    TemperatureConfig,
    TrainConfig,
)

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "MonitorConfig",
    "OptimConfig",
    "ParallelConfig",
    "RunConfig",
    "TemperatureConfig",
    "TrainConfig",
]
