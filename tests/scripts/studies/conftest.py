import pytest

from tests.scripts.studies.exports import Export


@pytest.fixture
def export(tmp_path):
    """A folder of DICOM files to fill."""
    return Export(tmp_path / "in")
