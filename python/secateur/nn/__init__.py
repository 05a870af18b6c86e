"""NumPy models: layers, losses, optimizers, callbacks and `Sequential`; the core does the arithmetic."""

from .activations import ReLU, Sigmoid, Softmax, Tanh
from .callbacks import Callback, Checkpoint, EarlyStopping, FitState
from .checkpoint import TrainingCheckpoint
from .conv import Conv2D
from .dense import Dense
from .dropout import Dropout
from .history import History
from .layers import Flatten, Layer
from .learning_rate import LearningRate
from .losses import Loss, MeanSquaredError, SparseCategoricalCrossentropy
from .normalization import BatchNorm
from .optimizers import SGD, Adam, Optimizer
from .pooling import AveragePool2D, MaxPool2D
from .residual import Residual
from .sequential import Sequential

__all__ = [
    "SGD",
    "Adam",
    "AveragePool2D",
    "BatchNorm",
    "Callback",
    "Checkpoint",
    "Conv2D",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "FitState",
    "Flatten",
    "History",
    "Layer",
    "LearningRate",
    "Loss",
    "MaxPool2D",
    "MeanSquaredError",
    "Optimizer",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "SparseCategoricalCrossentropy",
    "Tanh",
    "TrainingCheckpoint",
]
