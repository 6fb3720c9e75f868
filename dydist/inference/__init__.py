"""Use of trained models: evaluation, prediction and export.

- `trained`: a network loaded from a checkpoint (`TrainedModel`, `load_trained`)
- `loading`: `load`, the same for programs; `classifier`: a network to call on images (`Classifier`)
- `trust`: whether a function that a checkpoint names may be run
- `evaluation`: accuracy, loss, per-class accuracy, calibration (`evaluate_trained`); `calibration`: calibration error
- `pictures`: which image files are meant; `prediction`: classes, probabilities, attention (`predict`)
- `packaged`: a network with uint8 images as input (`PackagedNetwork`, `load_packaged`); `formats`: ONNX,
  torch.export, safetensors; `export`: writes and checks a file, with a model card (`export_trained`); `card`: that
  card
"""

from dydist.data.picture import read_picture
from dydist.inference.classifier import Classifier
from dydist.inference.evaluation import EvaluationReport, evaluate_trained
from dydist.inference.export import Exported, ExportError, export_trained
from dydist.inference.loading import load
from dydist.inference.packaged import PackagedNetwork, load_packaged
from dydist.inference.pictures import find_pictures
from dydist.inference.prediction import Prediction, predict
from dydist.inference.trained import TrainedModel, load_trained

__all__ = [
    "Classifier",
    "EvaluationReport",
    "ExportError",
    "Exported",
    "PackagedNetwork",
    "Prediction",
    "TrainedModel",
    "evaluate_trained",
    "export_trained",
    "find_pictures",
    "load",
    "load_packaged",
    "load_trained",
    "predict",
    "read_picture",
]
