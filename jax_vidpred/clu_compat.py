"""CLU's metric writers and metrics without TensorFlow; import CLU only from here.

`clu.metric_writers` imports its TensorFlow writer unconditionally. Where TensorFlow or
TensorBoard is missing, that one submodule is given a placeholder. The name `tensorflow`
itself is never faked: other packages probe for it.
"""

import importlib.util
import sys
import types

if any(
    importlib.util.find_spec(name) is None for name in ("tensorflow", "tensorboard")
):

    class SummaryWriter:
        """Placeholder for CLU's own writer of event files."""

        def __init__(self, *args, **kwargs):
            raise RuntimeError(
                "CLU's SummaryWriter needs tensorflow, which this package does without;"
                " use jax_vidpred.train.writers.TensorBoardWriter"
            )

    _stub = types.ModuleType("clu.metric_writers.summary_writer")
    _stub.SummaryWriter = SummaryWriter
    sys.modules[_stub.__name__] = _stub

from clu import metric_writers, metrics, parameter_overview  # noqa: E402

__all__ = ["metric_writers", "metrics", "parameter_overview"]
