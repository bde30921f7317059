"""Folders of DICOM files as a scanner or an archive exports them, and what the rules choose of them."""

import numpy as np
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from scripts.studies.folders import RULES_FILE
from scripts.studies.rules import choose, read_rules
from scripts.studies.series import read_studies

RULES = read_rules(RULES_FILE)
AXIAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]


def header(sop_class=MRImageStorage, **values):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


class Export:
    """A folder of DICOM files that is filled series by series."""

    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def save(self, dataset, name=None):
        self.count += 1
        # names and places without meaning
        path = self.folder / f"{self.count * 7919 % 5}" / (name or f"{self.count * 7919 % 10007:05x}")
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        return path

    def series(self, description, slices=12, study="1.2.3", patient="P-1", orientation=AXIAL, step=2.0, **values):
        """Write the slices of a series from its top to its bottom, and return its UID."""
        uid = generate_uid()
        normal = np.cross(orientation[:3], orientation[3:])
        for place in reversed(range(slices)):
            common = {
                "PatientID": patient, "StudyInstanceUID": study, "SeriesInstanceUID": uid, "SeriesDescription": description,
                "StudyDate": "20200102", "Rows": 4, "Columns": 4, "ImageType": ["ORIGINAL", "PRIMARY"], "Modality": "MR",
                "ImageOrientationPatient": orientation, "ImagePositionPatient": list(normal * step * place),
                "PixelSpacing": [1, 1], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
                "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
                "PixelData": np.full(16, place, np.uint16).tobytes(),
            }  # fmt: skip
            self.save(header(**{**common, **values}))
        return uid


def studies_of(folder):
    """The studies of all files in a folder."""
    return read_studies(sorted(path for path in folder.rglob("*") if path.is_file()))[0]


def decisions(export, rules=RULES):
    """What was decided on each series of the only study, by description."""
    (study,) = studies_of(export.folder)
    return {one.series.description: one for one in choose(study, rules)}


def chosen(export, rules=RULES):
    return {one.mri_type: name for name, one in decisions(export, rules).items() if one.chosen}


def rules_with(tmp_path, **changes):
    content = yaml.safe_load(RULES_FILE.read_text()) | changes
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(content))
    return read_rules(file)
