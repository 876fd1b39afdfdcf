"""Charts and reactions of your own, put through the rules that ours keep."""

from isgd_jax.testing._charts import check_control_chart
from isgd_jax.testing._reactions import check_reaction

__all__ = ('check_control_chart', 'check_reaction')
