"""CLU works and TensorFlow stays out."""

import importlib.util
import subprocess
import sys

import pytest


def test_clu_imports_without_tensorflow():
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from jax_vidpred.clu_compat import metric_writers, metrics\n"
        "import jax_vidpred.train.loop\n"
        "metric_writers.AsyncMultiWriter([metric_writers.LoggingWriter()]).close()\n"
        "print(float(metrics.Average.from_model_output(np.float32(3)).compute()))\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "3.0\n"


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
def test_placeholder_names_the_replacement():
    from jax_vidpred.clu_compat import metric_writers

    with pytest.raises(RuntimeError, match="TensorBoardWriter"):
        metric_writers.SummaryWriter("somewhere")
