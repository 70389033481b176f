"""A Dask cluster of two processes, for all tests of a file."""

import pytest
from dask import config
from distributed import Client, LocalCluster

from bilevel.comparison.engines.dask import Dask


@pytest.fixture(scope="module")
def cluster():
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    # else it takes workers for lost that are started anew several times within 15 seconds
    with (
        config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        LocalCluster(**options, silence_logs=60) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster, set_as_default=False) as made:
        yield made


@pytest.fixture
def engine(client):
    client.wait_for_workers(2)
    return Dask(client)
