"""What a trained model is for: measured again, asked about pictures, handed on in other formats.

- `trained`: a network as of one step, from a checkpoint (`TrainedModel`, `load_trained`)
- `evaluation`: accuracy, loss, per class, calibration (`evaluate_trained`); `calibration`: the error itself
- `pictures`: image files as the network takes them; `prediction`: classes, probabilities, attention (`predict`)
- `packaged`: the network that takes bytes (`PackagedNetwork`, `load_packaged`); `formats`: ONNX, torch.export,
  safetensors; `export`: write, check, and a model card beside it (`export_trained`); `card`: what that card says
"""

from dydist.inference.evaluation import EvaluationReport, evaluate_trained
from dydist.inference.export import Exported, ExportError, export_trained
from dydist.inference.packaged import PackagedNetwork, load_packaged
from dydist.inference.pictures import find_pictures, read_picture
from dydist.inference.prediction import Prediction, predict
from dydist.inference.trained import TrainedModel, load_trained

__all__ = [
    "EvaluationReport",
    "ExportError",
    "Exported",
    "PackagedNetwork",
    "Prediction",
    "TrainedModel",
    "evaluate_trained",
    "export_trained",
    "find_pictures",
    "load_packaged",
    "load_trained",
    "predict",
    "read_picture",
]
