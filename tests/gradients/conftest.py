import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread():
    """These arrays are small: threads that wait for each other on a busy machine take a hundred times as long."""
    with threadpool_limits(1):
        yield
