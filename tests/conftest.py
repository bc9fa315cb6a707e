"""Every test runs with shapes and types of ``nesht_jax`` checked, and strict JAX."""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version

if "PYTEST_XDIST_WORKER" not in os.environ:
    # one program compiles once for all tests, workers and the processes they start
    CACHE = tempfile.mkdtemp()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
    # tests compile far more than they compute; flags that are set stand, even an empty string
    if "XLA_FLAGS" not in os.environ:
        FLAGS = "--xla_cpu_parallel_codegen_split_count=1 --xla_backend_optimization_level=0"
        if version("jaxlib").startswith("0.10."):  # later ones have no such flag
            FLAGS += " --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = FLAGS

import jax  # noqa: E402  (it reads the variable once)
import jaxtyping  # noqa: E402  (after JAX)
import pytest  # noqa: E402  (after JAX)

jaxtyping.install_import_hook("nesht_jax", "beartype.beartype")


@pytest.fixture(autouse=True, scope="module")
def programs_end_with_their_module():
    """Each compiled program maps memory; Linux ends a process that has mapped 65,530 pieces."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def strict_rank_promotion(request):
    """Mark a test ``simulator`` if the simulator's own code broadcasts ranks."""
    rule = "allow" if request.node.get_closest_marker("simulator") else "raise"
    with jax.numpy_rank_promotion(rule):
        yield


@pytest.fixture
def unchecked():
    """What users meet: no check of types before our own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
