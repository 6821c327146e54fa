"""Training under a distribution strategy that resumes exactly: `fit`, its config, schedules and optimizer."""

from keras_attention.training.checkpoints import CheckpointFolder
from keras_attention.training.config import TrainingConfig
from keras_attention.training.fit import Trained, fit
from keras_attention.training.label_smoothing import SmoothedCrossentropy
from keras_attention.training.optimizers import OptimizerConfig, make_optimizer
from keras_attention.training.schedules import WarmupCosine, WarmupInverseSquareRoot, WarmupLinear
from keras_attention.training.strategies import Cluster, make_strategy, read_cluster

__all__ = [
    "CheckpointFolder",
    "Cluster",
    "OptimizerConfig",
    "SmoothedCrossentropy",
    "Trained",
    "TrainingConfig",
    "WarmupCosine",
    "WarmupInverseSquareRoot",
    "WarmupLinear",
    "fit",
    "make_optimizer",
    "make_strategy",
    "read_cluster",
]
