"""Dynamic convolution: layers, strategies to compute them, and a ResNet-18 with them.

- `attention`: attention over kernels, `set_temperature`
- `dynamic_conv`, `linear`: the layers
- `strategies`: implementations of dynamic convolution, and the rule that chooses one
- `initialization`: initial values
- `choice`: the strategy of each layer, by rule or measurement; `measured`: the measured times
- `convert`: converts the convolutions of any network
- `batchnorm`: batch norm with statistics per shard
- `factory`: the user's own networks; `draws` keys their masks, `examine` finds draws that cannot be keyed
- `pretrained`: the weights that a run starts from
- `resnet`: DY-ResNet18 and the static ResNet-18
- `cost`: parameters and multiply-adds
"""

from dydist.models.attention import set_temperature
from dydist.models.batchnorm import ShardBatchNorm2d, ShardStatistics, attach_statistics
from dydist.models.choice import DynamicLayer, apply_strategies, choose_strategies, dynamic_layers
from dydist.models.convert import convert_to_dynamic
from dydist.models.dynamic_conv import DynamicConv2d
from dydist.models.linear import DynamicLinear
from dydist.models.resnet import build_model, dy_resnet18, static_resnet18

__all__ = [
    "DynamicConv2d",
    "DynamicLayer",
    "DynamicLinear",
    "ShardBatchNorm2d",
    "ShardStatistics",
    "apply_strategies",
    "attach_statistics",
    "build_model",
    "choose_strategies",
    "convert_to_dynamic",
    "dy_resnet18",
    "dynamic_layers",
    "set_temperature",
    "static_resnet18",
]
