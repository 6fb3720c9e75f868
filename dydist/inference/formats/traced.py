"""The network as a torch.export program with a dynamic batch size."""

from __future__ import annotations

import torch
from torch.export import Dim, ExportedProgram, export

from dydist.inference.packaged import PackagedNetwork, example
from dydist.inference.trained import TrainedModel

STRATEGY = "mix"
"""K ordinary convolutions with mixed outputs: no custom kernels, and no dependence on the batch size, unlike a
convolution with a group per image, which exchange formats cannot express."""


def trace(model: TrainedModel) -> ExportedProgram:
    """Input `images`, uint8 [batch, 3, side, side]; output logits, float32 [batch, classes]. Computes in fp32."""
    network = model.with_strategy(STRATEGY).network.cpu()
    package = PackagedNetwork(network, model.data.mean, model.data.std).eval()
    with torch.no_grad():
        return export(
            package, (example(model.data.side),), dynamic_shapes={"images": {0: Dim("batch", min=1)}}
        )
