"""The network as a torch.export program with a free batch size."""

from __future__ import annotations

import torch
from torch.export import Dim, ExportedProgram, export

from dydist.inference.packaged import PackagedNetwork, example
from dydist.inference.trained import TrainedModel

STRATEGY = "mix"
"""K plain convolutions whose outputs are mixed: no kernels of our own, and nothing in it depends on the batch size
(one convolution with a group an image does, and no exchange format can say that)."""


def trace(model: TrainedModel) -> ExportedProgram:
    """Input `images`, uint8 [batch, 3, side, side]; output logits, float32 [batch, classes]. In fp32."""
    network = model.with_strategy(STRATEGY).network.cpu()
    package = PackagedNetwork(network, model.data.mean, model.data.std).eval()
    with torch.no_grad():
        return export(
            package, (example(model.data.side),), dynamic_shapes={"images": {0: Dim("batch", min=1)}}
        )
