"""What the tests of sparsity share."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Turns the checks of annotations off, as they are for users: our own errors must do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
