"""Networks in Flax NNX, by name: `create_model('resnet18', ...)`.

Every network is called as `network(x, train=False)`: `train` switches dropout
and BatchNorm for this call only. `dtype` is what it computes in; parameters,
BatchNorm statistics and logits are float32 whatever it is.
"""

try:
  import flax  # noqa: F401
except ImportError as error:
  from isgd_jax.experiments.errors import missing_extra

  raise missing_extra('flax') from error

from isgd_jax.experiments.models._losses import cross_entropy
from isgd_jax.experiments.models.functional import Batch
from isgd_jax.experiments.models.functional import Model
from isgd_jax.experiments.models.functional import Params
from isgd_jax.experiments.models.functional import build_model
from isgd_jax.experiments.models.registry import create_model
from isgd_jax.experiments.models.registry import input_kind
from isgd_jax.experiments.models.registry import model_names
from isgd_jax.experiments.models.resnet import ResNet18
from isgd_jax.experiments.models.transformer import Transformer
from isgd_jax.experiments.models.vision import CNN
from isgd_jax.experiments.models.vision import MLP
from isgd_jax.experiments.models.vision import AlexNet
from isgd_jax.experiments.models.vision import Cifar10Quick
from isgd_jax.experiments.models.vision import LeNet
from isgd_jax.experiments.models.vision import TwoHiddenMLP

__all__ = [
  # By name
  'create_model',
  'input_kind',
  'model_names',
  # Networks
  'AlexNet',
  'CNN',
  'Cifar10Quick',
  'LeNet',
  'MLP',
  'ResNet18',
  'Transformer',
  'TwoHiddenMLP',
  # Functional view
  'Batch',
  'Model',
  'Params',
  'build_model',
  'cross_entropy',
]
