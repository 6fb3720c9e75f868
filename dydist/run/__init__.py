"""One run from beginning to end: what `dydist/train.py` calls once the configuration is read.

- `assemble`: builds the parts of a run and hands them to each other (`run`)
- `session`: ties the engine to its checkpoints; `strategies`: which implementation each dynamic layer uses
- `folder`: the run folder, and whose it is; `end`: what a run says at its end; `rollback`: from where a run that
  diverged can go on
"""
