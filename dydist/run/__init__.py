"""One run from start to end: `dydist/train.py` calls this package once the configuration is read.

- `assemble`: builds the parts of a run and connects them (`run`)
- `session`: connects the engine to its checkpoints; `strategies`: which implementation each dynamic layer uses
- `own_network`: examines the user's own network, and loads weights into it
- `folder`: the run folder and its owner; `end`: the summary of a run; `rollback`: the checkpoint to which a diverged
  run can go back
"""
