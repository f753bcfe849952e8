"""The controller lacks packages that only a node needs: nothing that it imports may need them."""

import subprocess
import sys
import textwrap

from tests.conftest import REPOSITORY

NODE_ONLY = (
    "httptools",
    "mlperf_loadgen",
    "nltk",
    "prometheus_client",
    "pynvml",
    "rouge_score",
    "tokenizers",
    "uvloop",
)
CONTROLLER = ("harness.benchmark", "harness.cli", "harness.cluster", "harness.report")
SCRIPT = """
    import importlib, pkgutil, sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {node_only}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Absent())
    sys.path[:0] = [".", "plugins/action"]
    for package in {controller}:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{{package}}.{{module.name}}")
    for module in pkgutil.iter_modules(["plugins/action"]):
        importlib.import_module(module.name)
    import harness.ci
"""


def test_no_module_of_the_controller_needs_a_package_of_the_node() -> None:
    script = textwrap.dedent(SCRIPT).format(node_only=set(NODE_ONLY), controller=CONTROLLER)
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_controllers_lock_has_none_of_them() -> None:
    lock = (REPOSITORY / "requirements" / "controller.txt").read_text()
    distributions = {"mlperf_loadgen": "mlcommons-loadgen", "pynvml": "nvidia-ml-py"}
    names = [distributions.get(name, name.replace("_", "-")) for name in NODE_ONLY]
    assert [name for name in names if f"\n{name}==" in lock] == []
