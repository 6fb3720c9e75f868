"""Training: shards, reduction, back ends and the loop.

- `Loop`, `Callbacks`, `Progress`: the training loop.
- `Engine`: the interface of a back end; `build_engine` creates the configured one: `ddp.DdpEngine` (reduce=fast),
  `exact.ExactEngine` (reduce=exact), `deepspeed.DeepSpeedEngine` (ZeRO); `core.TorchEngine` is their base class, with
  `loss`, `optimizer`, `ema`, `loss_scale` and `forward`, which calls the network.
- `deepspeed_config`, `deepspeed_import`, `deepspeed_state`: DeepSpeed's JSON, its import, full tensors from ZeRO's
  partitions.
- `World`, `start_world`: the processes of a run; `rendezvous` waits for all of them.
- `evaluate`: accuracy on a split. `check_agreement`: the guard. `tree`: the fixed reduction tree, without torch.
- `precision`: warns of emulated half precision on a CPU.
"""

from dydist.engine.evaluate import Evaluation, evaluate
from dydist.engine.guard import check_agreement
from dydist.engine.loop import Callbacks, Loop, Progress, total_steps
from dydist.engine.protocol import Engine, StepSums, Votes
from dydist.engine.select import build_engine
from dydist.engine.world import World, start_world

__all__ = [
    "Callbacks",
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
