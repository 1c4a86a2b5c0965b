"""Scripts start without what Lightning imports in vain, and whoever uses it has it as ever."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT

STEP = """
layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(layer.parameters())
layer(torch.ones(1, 2)).sum().backward()
before = layer.bias.tolist()
optimizer.step()
optimizer.zero_grad()
assert layer.bias.grad is None and layer.bias.tolist() != before
"""
START = "import sys\nfrom mnist_lightning.console.startup import importing\nwith importing():\n    import torch\n"


def python(code, **env):
    """Runs Python in a process of its own, and returns what it printed."""
    command, env = [sys.executable, "-c", code], {**os.environ, **env}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_training_imports_neither_matplotlib_nor_scipy_nor_the_compiler(dataset, tmp_path):
    code = START + "    from mnist_lightning.training.cli import MNISTCLI\n" + STEP
    code += (
        f"MNISTCLI(['--data.data_dir={dataset}', '--trainer.default_root_dir={tmp_path}', '--max_epochs=1']).fit()\n"
    )
    code += "print(sorted({'lightning.pytorch', 'matplotlib', 'scipy', 'sympy'} & sys.modules.keys()))\n"
    assert python(code).splitlines()[-1] == "['lightning.pytorch']"


def test_what_was_imported_before_is_left_alone():
    assert python("import scipy.ndimage\n" + START + "    import torchmetrics, scipy.signal\nprint('done')") == "done"


USES = """
import torch._dynamo.exc
import lightning.pytorch as L, torchmetrics, matplotlib.pyplot, scipy.signal
from lightning.pytorch.utilities.compile import _maybe_unwrap_optimized
from torch._dynamo.utils import counters
assert torch._dynamo is sys.modules["torch._dynamo"] and torch._dynamo.exc is sys.modules["torch._dynamo.exc"]
assert torch._dynamo.exc.__spec__.origin and issubclass(torch._dynamo.exc.Unsupported, Exception)

module = L.LightningModule()
assert _maybe_unwrap_optimized(module) is module
assert _maybe_unwrap_optimized(torch.compile(module, backend="eager")) is module

torch.compile(torch.nn.Linear(2, 2), backend="eager")(torch.ones(1, 2))
assert counters["frames"]["ok"] == 1

for metric in (torchmetrics.MeanMetric(), torchmetrics.classification.BinaryConfusionMatrix()):
    metric.update(torch.ones(2), torch.ones(2))
    figure, axes = metric.plot()
assert torchmetrics.utilities.imports._SCIPY_AVAILABLE
"""


@pytest.mark.slow
def test_who_compiles_or_plots_a_metric_later_can(tmp_path):
    pytest.importorskip("matplotlib")
    assert python(START + STEP + USES + STEP + "print('done')", MPLCONFIGDIR=str(tmp_path), MPLBACKEND="agg") == "done"
