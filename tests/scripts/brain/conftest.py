"""A patient with a skull: synthetic, and the real one."""

import pytest

from scripts.synthetic.phantom import make_patient
from tests.heads import read_real_head


@pytest.fixture(scope="session")
def patient():
    pytest.importorskip("nilearn")
    return make_patient(1, 1, spacing=2.0, shape=(120, 130, 96))


@pytest.fixture(scope="session")
def real_head(real_data):
    return read_real_head(real_data)
