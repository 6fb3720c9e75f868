"""The configuration of a run. Imports neither torch nor numpy, so that a mistake is reported without delay.

- `schema`: a frozen dataclass per section; `types`: types of fields, and conversion to them
- `data_sets`: the data sets that come with dydist; `trackers`: the trackers that may be named
- `rules`: ranges and combinations of values (`check_config`), and the fields that do not affect results
- `reader`: builds a `Config` from YAML files and flags; `help`: prints `--help`
- `shipped`: recipes, launch files and profiles in the package
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
