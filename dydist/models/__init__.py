"""Dynamic convolution: layers, strategies to compute them, and ResNet-18 made of them.

- `attention`: the weights of the kernels, `set_temperature`
- `dynamic_conv`, `linear`: the layers
- `strategies`: ways to compute a dynamic convolution, and which to choose
- `initialization`: initial values
- `choice`: which strategy each layer takes, by rule or as measured; `measured`: the times
- `convert`: any network's convolutions made dynamic
- `batchnorm`: batch norm with the statistics of a shard
- `resnet`: DY-ResNet18 and its static twin
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
