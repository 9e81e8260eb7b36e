"""The tables of rows in flight, of the host and of a device."""

import numpy as np
import pytest
import torch

from elbod.engine.backends.base import Table
from elbod.engine.backends.cuda import DeviceTable
from elbod.engine.backends.eager import HostTable

ROWS = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)


@pytest.fixture(params=["host", "device"])
def table(request: pytest.FixtureRequest) -> Table:
    dtype = np.dtype(np.float32)
    return (
        HostTable(6, (2, 3), dtype) if request.param == "host" else DeviceTable(torch.device("cpu"), 6, (2, 3), dtype)
    )


def test_rows_come_back_in_the_order_of_their_slots(table: Table) -> None:
    table.write(np.array([4, 0, 2, 5, 1]), ROWS)
    table.write(np.int64(3), torch.from_numpy(ROWS[:1]))
    assert np.array_equal(table.take(np.array([2, 2, 3])).numpy(), ROWS[[2, 2, 0]])
    assert np.array_equal(table.read(np.array([1, 4])), ROWS[[4, 0]])


def test_a_table_that_grows_keeps_its_rows(table: Table) -> None:
    table.write(np.arange(5), ROWS)
    table.grow(12)
    table.write(np.array([11]), ROWS[1:2])
    assert np.array_equal(table.read(np.array([0, 1, 2, 3, 4, 11])), ROWS[[0, 1, 2, 3, 4, 1]])


def test_rows_of_another_shape_are_refused(table: Table) -> None:
    with pytest.raises(ValueError, match=r"rows of shape \(3, 2\), not \(2, 3\)"):
        table.write(np.arange(5), ROWS.reshape(5, 3, 2))
