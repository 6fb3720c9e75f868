"""Training: shards, reduction, back ends and the loop.

- `Loop`, `Progress`: steps, evaluations, saves and stops.
- `Engine`: what the loop asks of a back end; `build_engine` makes the configured one:
  `ddp.DdpEngine` (reduce=fast), `exact.ExactEngine` (reduce=exact), `deepspeed.DeepSpeedEngine` (ZeRO);
  `core.TorchEngine` is what they share, with `optimizer`, `ema` and `loss_scale`.
- `deepspeed_config`, `deepspeed_import`, `deepspeed_state`: its JSON, its import, whole tensors out of ZeRO's slices.
- `World`, `start_world`: the processes of a run; `rendezvous` waits until all are there.
- `evaluate`: a split's accuracy. `check_agreement`: the guard. `tree`: the fixed order of sums, without torch.
- `precision`: whether a CPU has instructions for half precision.
"""

from dydist.engine.evaluate import Evaluation, evaluate
from dydist.engine.guard import check_agreement
from dydist.engine.loop import Loop, Progress, total_steps
from dydist.engine.protocol import Engine, StepSums, Votes
from dydist.engine.select import build_engine
from dydist.engine.world import World, start_world

__all__ = [
    "Engine",
    "Evaluation",
    "Loop",
    "Progress",
    "StepSums",
    "Votes",
    "World",
    "build_engine",
    "check_agreement",
    "evaluate",
    "start_world",
    "total_steps",
]
