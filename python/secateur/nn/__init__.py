"""NumPy models: layers, losses, optimizers, callbacks and `Sequential`; the core does the arithmetic."""

from .activations import ReLU, Sigmoid, Softmax, Tanh
from .bidirectional import Bidirectional
from .branches import Concatenate, Slice
from .callbacks import Callback, Checkpoint, EarlyStopping, FitState
from .checkpoint import TrainingCheckpoint
from .conv import Conv2D
from .conv1d import Conv1D, GlobalMaxPool1D
from .crf import CRF, CRFLoss
from .dense import Dense
from .dropout import Dropout
from .embedding import Embedding
from .history import History
from .layers import Flatten, Layer
from .learning_rate import LearningRate
from .losses import Loss, MeanSquaredError, SparseCategoricalCrossentropy
from .normalization import BatchNorm, LayerNorm
from .optimizers import SGD, Adam, Optimizer
from .pooling import AveragePool2D, MaxPool2D
from .recurrent import GRU, LSTM, SimpleRNN
from .residual import Residual
from .sequential import Sequential
from .time_distributed import TimeDistributed

__all__ = [
    "CRF",
    "GRU",
    "LSTM",
    "SGD",
    "Adam",
    "AveragePool2D",
    "BatchNorm",
    "Bidirectional",
    "CRFLoss",
    "Callback",
    "Checkpoint",
    "Concatenate",
    "Conv1D",
    "Conv2D",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "FitState",
    "Flatten",
    "GlobalMaxPool1D",
    "History",
    "Layer",
    "LayerNorm",
    "LearningRate",
    "Loss",
    "MaxPool2D",
    "MeanSquaredError",
    "Optimizer",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "SimpleRNN",
    "Slice",
    "Softmax",
    "SparseCategoricalCrossentropy",
    "Tanh",
    "TimeDistributed",
    "TrainingCheckpoint",
]
