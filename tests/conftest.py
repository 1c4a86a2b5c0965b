import os
from pathlib import Path

import pytest
from helpers import write_dataset
from hypothesis import settings

# An example that waits for a busy machine is not a wrong one.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A folder with 600 training and 100 test images in MNIST's format. Shared: read it, don't change it."""
    return write_dataset(tmp_path_factory.mktemp("dataset") / "digits")


@pytest.fixture(scope="session")
def mnist():
    """The folder of the real MNIST, for the few tests that want it."""
    if not os.environ.get("MNIST_DIR"):
        pytest.skip("set MNIST_DIR to a folder with the real MNIST")
    return Path(os.environ["MNIST_DIR"]).resolve()
