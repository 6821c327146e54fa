"""Training under a distribution strategy that resumes exactly, what it reads, and what it shows in TensorBoard."""

from keras_attention.training.adversarial import FastGradientMethod
from keras_attention.training.attention_images import AttentionImages
from keras_attention.training.bucketing import bucket_by_length, padding_share
from keras_attention.training.checkpoints import CheckpointFolder
from keras_attention.training.config import TrainingConfig
from keras_attention.training.embedding_projector import EmbeddingProjector
from keras_attention.training.fit import Trained, fit
from keras_attention.training.hyper_parameters import HyperParameters
from keras_attention.training.label_smoothing import SmoothedCrossentropy
from keras_attention.training.optimizers import OptimizerConfig, make_optimizer
from keras_attention.training.packing import pack
from keras_attention.training.predicted_texts import PredictedTexts
from keras_attention.training.profile import Profile
from keras_attention.training.r_drop import RDrop
from keras_attention.training.reader_errors import reader_errors
from keras_attention.training.readers import read_csv, read_json_lines
from keras_attention.training.robustness import Robustness, RobustnessReport, robustness_report
from keras_attention.training.schedules import WarmupCosine, WarmupInverseSquareRoot, WarmupLinear
from keras_attention.training.search import SearchResult, TrialResult, search
from keras_attention.training.strategies import Cluster, make_strategy, read_cluster
from keras_attention.training.tfrecords import read_tfrecords, write_tfrecord_shards

__all__ = [
    "AttentionImages",
    "CheckpointFolder",
    "Cluster",
    "EmbeddingProjector",
    "FastGradientMethod",
    "HyperParameters",
    "OptimizerConfig",
    "PredictedTexts",
    "Profile",
    "RDrop",
    "Robustness",
    "RobustnessReport",
    "SearchResult",
    "SmoothedCrossentropy",
    "Trained",
    "TrainingConfig",
    "TrialResult",
    "WarmupCosine",
    "WarmupInverseSquareRoot",
    "WarmupLinear",
    "bucket_by_length",
    "fit",
    "make_optimizer",
    "make_strategy",
    "pack",
    "padding_share",
    "read_cluster",
    "read_csv",
    "read_json_lines",
    "read_tfrecords",
    "reader_errors",
    "robustness_report",
    "search",
    "write_tfrecord_shards",
]
