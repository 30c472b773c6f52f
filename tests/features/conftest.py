"""What the tests of frozen networks share: torch as an oracle."""

import pytest


@pytest.fixture(scope="session")
def torch():
    """PyTorch on one thread, such that torchvision can be imported after it."""
    torch = pytest.importorskip("torch", reason="needs the extra 'oracle'")
    torch.set_num_threads(1)
    # A torchvision built for another torch lacks its compiled operators, and says so
    # only by failing to import; nothing here calls them.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor boxes, Tensor scores, float iou) -> Tensor")
        except RuntimeError:  # they are there
            break
    torch.torchvision_operators = library  # dropped with the library otherwise
    return torch
