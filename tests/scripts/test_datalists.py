import json
from collections import Counter

import pytest
import sklearn
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from sklearn.model_selection import StratifiedGroupKFold

from scripts import datalists
from scripts.datalists import DataListError
from scripts.errors import UserError
from tests.scripts.layouts import NAMES_2023, dicom_study, names, nifti_study, touch, write_rows


def write_datalist(file, **sections):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(sections))
    return file


def entry(patient, **values):
    return {"patient": patient, "FLAIR": f"{patient}/FLAIR", **values}


# Building


@pytest.fixture
def task2(tmp_path):
    """A Task-2 folder of 12 labelled patients, a third of them positive, and 3 for testing."""
    root = tmp_path / "task2"
    for number in range(12):
        dicom_study(root / "train", f"{number:05d}")
    for number in range(20, 23):
        dicom_study(root / "test", f"{number:05d}")
    write_rows(root / "train_labels.csv", [(f"{number:05d}", int(number % 3 == 0)) for number in range(12)])
    return root


@pytest.fixture
def task1(tmp_path):
    root = tmp_path / "task1"
    for number in range(8):
        nifti_study(root, f"BraTS2021_{number:05d}")
    return root


def test_task2_is_listed(task2, tmp_path):
    listed = datalists.build_datalist(task2, tmp_path / "lists" / "task2.json", folds=4)
    assert json.loads((tmp_path / "lists" / "task2.json").read_text()) == listed
    assert names(listed["training"]) == [f"{number:05d}" for number in range(12)]
    assert names(listed["test"]) == ["00020", "00021", "00022"]
    assert listed["validation"] == []
    for one in listed["training"]:
        assert one["label"] == int(int(one["patient"]) % 3 == 0)
        assert one["T1wCE"] == f"train/{one['patient']}/T1wCE"
    assert not any("label" in one or "fold" in one for one in listed["test"])
    loaded = datalists.load_datalist(tmp_path / "lists" / "task2.json")
    assert loaded["test"][0]["FLAIR"] == str(task2 / "test" / "00020" / "FLAIR")


@given(seed=st.integers(0, 99), labels=st.lists(st.integers(0, 1), min_size=20, max_size=40), data=st.data())
def test_folds_are_those_of_scikit_learn_whatever_its_version(seed, labels, data):
    assume(4 <= sum(labels) <= len(labels) - 4)
    groups = data.draw(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=len(labels), max_size=len(labels)))
    assume(
        min(len({group for group, one in zip(groups, labels, strict=True) if one == label}) for label in (0, 1)) >= 4
    )
    training = [{"label": label, "group": group} for label, group in zip(labels, groups, strict=True)]
    datalists._assign_folds(training, 4, seed)
    if Version(sklearn.__version__) >= Version("1.8"):
        splits = StratifiedGroupKFold(4, shuffle=True, random_state=seed).split(training, labels, groups)
        for fold, (_, held_out) in enumerate(splits):
            assert [index for index, one in enumerate(training) if one["fold"] == fold] == list(held_out)
    for fold in range(4):  # nobody is in two
        inside = {one["group"] for one in training if one["fold"] == fold}
        assert not inside & {one["group"] for one in training if one["fold"] != fold}


def test_folds_are_stratified(task2):
    listed = datalists.build_datalist(task2, folds=4)["training"]
    for fold in range(4):
        assert Counter(one["label"] for one in listed if one["fold"] == fold) == {0: 2, 1: 1}


def test_seed_of_the_folds(task2):
    def folds(seed):
        return [one["fold"] for one in datalists.build_datalist(task2, folds=4, seed=seed)["training"]]

    assert folds(1) == folds(1)
    assert len({tuple(folds(seed)) for seed in range(5)}) > 1


def test_folds_keep_a_person_together(tmp_path):
    for number in range(6):
        for visit in range(2):
            nifti_study(tmp_path, f"BraTS-GLI-{number:05d}-{visit:03d}", NAMES_2023, "-")
    listed = datalists.build_datalist(tmp_path, folds=3)["training"]
    assert {one["fold"] for one in listed} == {0, 1, 2}
    for number in range(6):
        assert len({one["fold"] for one in listed if f"-{number:05d}-" in one["patient"]}) == 1


def test_labelled_folds_keep_a_person_together(tmp_path):
    for number in range(8):
        for visit in range(2):
            nifti_study(tmp_path, f"BraTS-GLI-{number:05d}-{visit:03d}", NAMES_2023, "-", seg=False)
    labels = write_rows(tmp_path / "mgmt.csv", [(f"{number}", number % 2) for number in range(8)])
    listed = datalists.build_datalist(tmp_path, labels=labels, folds=2)["training"]
    assert len(listed) == 16
    for number in range(8):
        (fold,) = {one["fold"] for one in listed if f"-{number:05d}-" in one["patient"]}
        assert {one["label"] for one in listed if f"-{number:05d}-" in one["patient"]} == {number % 2}
        assert fold in (0, 1)


def test_task1_is_listed(task1):
    listed = datalists.build_datalist(task1, folds=4)
    assert len(listed["training"]) == 8
    assert listed["test"] == []
    assert Counter(one["fold"] for one in listed["training"]) == dict.fromkeys(range(4), 2)
    assert listed["training"][0]["seg"] == "BraTS2021_00000/BraTS2021_00000_seg.nii.gz"


def test_labels_in_another_style_than_the_folders(task2):
    write_rows(task2 / "train_labels.csv", [(str(number), number % 2) for number in range(12)])
    listed = datalists.build_datalist(task2, folds=2)["training"]
    assert [one["label"] for one in listed] == [number % 2 for number in range(12)]


def test_patients_without_a_label_are_reported(task2, log):
    write_rows(task2 / "train_labels.csv", [(f"{number:05d}", number % 2) for number in range(11)])
    listed = datalists.build_datalist(task2, folds=2)
    assert "1 patients have no label" in log.text
    assert "00011" in log.text
    assert "00011" not in names(listed["training"])
    assert "00011" in names(listed["test"])


def test_studies_without_labels_are_for_testing(tmp_path):
    dicom_study(tmp_path, "00001")
    dicom_study(tmp_path, "00002")
    listed = datalists.build_datalist(tmp_path)
    assert names(listed["test"]) == ["00001", "00002"]
    assert listed["training"] == []


def test_patients_without_a_series_are_reported_and_not_listed(task2, log):
    touch(task2 / "train" / "00030" / "AX FLAIR" / "Image-1.dcm")
    touch(task2 / "test" / "00031" / "AX FLAIR" / "Image-1.dcm")
    touch(task2 / "train" / "00000" / "DWI" / "Image-1.dcm")
    (task2 / "train" / "00000" / "T1w" / "Image-1.dcm").unlink()
    (task2 / "train" / "00000" / "T1w").rmdir()
    listed = datalists.build_datalist(task2, folds=2)
    assert names(listed["training"]) == [f"{number:05d}" for number in range(12)]
    assert names(listed["test"]) == ["00020", "00021", "00022"]
    assert "2 patients without any series are not listed: 00030, 00031" in log.text
    assert not any({"reason", "warnings"} & set(one) for one in (*listed["training"], *listed["test"]))


def test_too_few_patients_for_the_folds(task2, task1):
    with pytest.raises(DataListError, match=r"4 patients of the rarer label can't be split into 5 folds.*--folds"):
        datalists.build_datalist(task2, folds=5)
    with pytest.raises(DataListError, match="8 patients can't be split into 9 folds"):
        datalists.build_datalist(task1, folds=9)


def test_a_list_is_not_overwritten_unasked(task2, tmp_path):
    file = tmp_path / "task2.json"
    file.write_text('{"training": []}')
    with pytest.raises(DataListError, match=r"task2\.json exists; .*--overwrite"):
        datalists.build_datalist(task2, file, folds=2)
    assert file.read_text() == '{"training": []}'
    datalists.build_datalist(task2, file, folds=2, overwrite=True)
    other = file.with_name("thesis.json")
    other.write_text('{"mine": 1}')
    with pytest.raises(DataListError, match=r"thesis\.json: not a data list"):
        datalists.build_datalist(task2, other, folds=2, overwrite=True)
    assert other.read_text() == '{"mine": 1}'
    assert len(json.loads(file.read_text())["training"]) == 12


# Reading


def test_paths_follow_the_folder_that_is_given(tmp_path):
    file = write_datalist(tmp_path / "list.json", dataset_dir="data", training=[entry("1")])
    assert datalists.load_datalist(file)["training"][0]["FLAIR"] == str(tmp_path / "data" / "1" / "FLAIR")
    assert datalists.load_datalist(file, "/there")["training"][0]["FLAIR"] == "/there/1/FLAIR"
    file = write_datalist(tmp_path / "bare.json", test=[entry("1")])
    loaded = datalists.load_datalist(file)
    assert loaded["test"][0]["FLAIR"] == str(tmp_path / "1" / "FLAIR")
    assert loaded["training"] == loaded["validation"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"list\.json: not readable JSON"),
        ("[]", r"list\.json: not a data list; expected .*training, validation, test"),
        ('{"patients": []}', r"list\.json: not a data list"),
        ('{"training": [{"FLAIR": "a"}]}', r"list\.json: an entry of 'training' has no 'patient'.*FLAIR"),
        ('{"test": ["00001"]}', r"list\.json: an entry of 'test' has no 'patient'.*00001"),
        (
            '{"test": [{"patient": 12}]}',
            r"list\.json: an entry of 'test' has the patient 12, expected non-empty text.* in quotes",
        ),
        ('{"test": [{"patient": null}]}', "has the patient None, expected non-empty text"),
        ('{"test": [{"patient": " "}]}', "has the patient ' ', expected non-empty text"),
        (
            '{"training": [{"patient": "1"}], "test": [{"patient": "1"}]}',
            r"list\.json: patients named more than once: 1; keep one",
        ),
        ("[" * 100_000, r"list\.json: not readable JSON \(.*\); make it again with `radiogenomics datalist`"),
        ('{"test": [], "n": ' + "9" * 5000 + "}", r"list\.json: not readable JSON .*; make it again"),
        ("\udcff", r"list\.json: not readable JSON .*utf-8.*; make it again"),
        ('{"test": null}', r"list\.json: 'test' is None; expected a list of patients"),
        ('{"test": [], "dataset_dir": 5}', r"list\.json: dataset_dir is 5; expected the path of a folder"),
        ('{"test": [{"patient": "1", "FLAIR": "a\\u0000"}]}', r"list\.json: FLAIR of patient 1 is .*; expected a path"),
        ('{"test": [{"patient": "1", "seg": "\\ud800"}]}', r"list\.json: seg of patient 1 is .*; expected a path"),
        ('{"test": [{"patient": "\\ud800"}]}', r"list\.json: patient '\\ud800' contains half a character; rename"),
        ('{"test": [{"patient": "1", "label": "x"}]}', r"list\.json: label of patient 1 is 'x'; expected 0 or 1"),
        ('{"test": [{"patient": "1", "label": true}]}', r"list\.json: label of patient 1 is True; expected 0 or 1"),
        ('{"test": [{"patient": "1", "fold": 0.5}]}', r"list\.json: fold of patient 1 is 0.5; expected a whole number"),
        ('{"test": [{"patient": "1", "group": []}]}', r"list\.json: group of patient 1 is \[\]; expected text"),
    ],
)
def test_unusable_lists(tmp_path, content, message):
    (tmp_path / "list.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=message):
        datalists.load_datalist(tmp_path / "list.json")


def test_a_series_may_be_a_list_of_files(tmp_path):
    file = write_datalist(tmp_path / "list.json", test=[{"patient": "1", "FLAIR": ["in/IM1", "in/IM2"]}])
    (loaded,) = datalists.load_datalist(file)["test"]
    assert loaded["FLAIR"] == [str(tmp_path / "in" / name) for name in ("IM1", "IM2")]
    write_datalist(tmp_path / "list.json", test=[{"patient": "1", "FLAIR": []}])
    with pytest.raises(DataListError, match=r"FLAIR of patient 1 is \[\]; expected a path, or a list"):
        datalists.load_datalist(file)


def test_missing_list_says_how_to_make_one(tmp_path):
    with pytest.raises(DataListError, match=r"list\.json: no such data list; .*radiogenomics datalist --input"):
        datalists.load_datalist(tmp_path / "list.json")


# Who is left out


def test_exclude_knows_a_person_under_any_name(log):
    entries = [entry("BraTS2021_00012"), entry("00012"), entry("12"), entry("13"), entry("TCGA-1")]
    assert names(datalists.exclude(entries, ["00012", "TCGA-1"], "gone for a reason")) == ["13"]
    assert "gone for a reason: 4 patients" in log.text
    assert "BraTS2021_00012" in log.text


def test_exclude_of_nobody_is_reported_too(log):
    assert names(datalists.exclude([entry("1")], ["2"], "why")) == ["1"]
    assert "why: 0 patients" in log.text


def test_patients_of_task_2_never_train_stage_1(tmp_path, log):
    first = write_datalist(
        tmp_path / "task1.json",
        training=[entry(f"BraTS2021_{number:05d}", fold=number % 2) for number in range(10)],
    )
    second = write_datalist(
        tmp_path / "task2.json",
        training=[entry("00003"), entry("00004")],
        validation=[entry("5")],
        test=[entry("00006")],
    )
    training, held_out = datalists.segmentation_split(first, fold=0, classification_datalist=second)
    assert names(training) == [f"BraTS2021_{number:05d}" for number in (1, 7, 9)]
    assert names(held_out) == [f"BraTS2021_{number:05d}" for number in (0, 2, 8)]
    assert "left out of stage 1 as patients of Task 2: 4 patients" in log.text
    for number in (3, 4, 5, 6):
        assert f"BraTS2021_{number:05d}" in log.text


def test_stage_1_without_a_list_of_task_2_is_warned(tmp_path, log):
    file = write_datalist(tmp_path / "task1.json", training=[entry(str(number), fold=number) for number in range(3)])
    training, held_out = datalists.segmentation_split(file, fold=1)
    assert (names(training), names(held_out)) == (["0", "2"], ["1"])
    assert [r.levelname for r in log.records if "--classification_datalist" in r.message] == ["WARNING"]


def test_what_the_hosts_left_out_never_trains_stage_2(tmp_path, log):
    bad = ["00109", "00123", "00709"]
    good = [f"{number:05d}" for number in range(6)]
    training = [entry(name, fold=place % 2, label=place % 2) for place, name in enumerate(good + bad)]
    file = write_datalist(tmp_path / "task2.json", training=training)
    sides = datalists.classification_split(file)
    assert sorted(names(sides[0]) + names(sides[1])) == good
    assert "left out of stage 2, as the organisers ask: 3 patients" in log.text
    for name in bad:
        assert name in log.text


def test_what_the_hosts_left_out_is_not_held_out_either(tmp_path):
    file = write_datalist(
        tmp_path / "task2.json",
        training=[entry("1")],
        validation=[entry("109"), entry("2")],
        test=[entry("123"), entry("3")],
    )
    assert names(datalists.classification_split(file)[1]) == ["2"]
    assert names(datalists.held_out(file)) == ["2"]
    assert names(datalists.held_out(file, section="test")) == ["3"]
    assert names(datalists.held_out(file, section="test", excluded=())) == ["123", "3"]


# Folds


@given(
    st.lists(st.integers(0, 4), min_size=6, max_size=30).filter(lambda folds: {0, 1} <= set(folds)), st.integers(0, 1)
)
@settings(deadline=None, max_examples=50)
def test_a_fold_is_held_out(folds, fold):
    entries = [entry(str(place), fold=one) for place, one in enumerate(folds)]
    training, held_out = datalists.split_fold({"training": entries, "validation": []}, fold)
    assert {one["fold"] for one in held_out} == {fold}
    assert fold not in {one["fold"] for one in training}
    assert len(training) + len(held_out) == len(entries)


def test_the_lists_own_validation_is_held_out(log):
    lists = {"training": [entry("1", fold=0), entry("2", fold=1)], "validation": [entry("3")]}
    training, held_out = datalists.split_fold(lists, fold=0)
    assert (names(training), names(held_out)) == (["1", "2"], ["3"])
    assert "2 patients train, 1 are held out" in log.text


def test_a_person_on_both_sides_is_refused():
    folds = [entry("BraTS-GLI-00007-000", group="7", fold=0), entry("BraTS-GLI-00007-001", group="7", fold=1)]
    with pytest.raises(
        DataListError, match="the same persons would be in training and held out: 7; rebuild the data list"
    ):
        datalists.split_fold({"training": folds, "validation": []})
    lists = {"training": [entry("a", group="7")], "validation": [entry("b", group="7")]}
    with pytest.raises(DataListError, match="the same persons"):
        datalists.split_fold(lists)


def test_a_person_on_both_sides_is_known_by_the_name_too():
    lists = {"training": [entry("00012")], "validation": [entry("BraTS2021_00012")]}
    with pytest.raises(DataListError, match="the same persons"):
        datalists.split_fold(lists)


def test_a_fold_that_is_not_there():
    lists = {"training": [entry("1", fold=0), entry("2", fold=1)], "validation": []}
    with pytest.raises(DataListError, match=r"fold 5: 2 patients train and 0 are held out; .*\[0, 1\]"):
        datalists.split_fold(lists, fold=5)


# Who is asked for


def test_select_from_a_folder(tmp_path):
    dicom_study(tmp_path, "00001")
    assert names(datalists.select(tmp_path)) == ["00001"]


def test_select_from_a_list(tmp_path):
    file = write_datalist(tmp_path / "list.json", training=[entry("1")], validation=[entry("2")], test=[entry("3")])
    assert names(datalists.select(datalist=file)) == ["1", "2", "3"]
    assert names(datalists.select(datalist=file, section="test")) == ["3"]
    assert datalists.select("/there", file, "test")[0]["FLAIR"] == "/there/3/FLAIR"


def test_select_gives_labels(tmp_path):
    file = write_datalist(tmp_path / "list.json", test=[entry("00001"), entry("00002")])
    labels = write_rows(tmp_path / "labels.csv", [("1", 1)])
    first, second = datalists.select(datalist=file, labels=labels)
    assert first["label"] == 1
    assert "label" not in second


def test_select_prefers_the_label_of_the_very_name(tmp_path):
    visits = ["BraTS-GLI-00007-000", "BraTS-GLI-00007-001"]
    file = write_datalist(tmp_path / "list.json", test=[entry(visit) for visit in visits])
    labels = write_rows(tmp_path / "labels.csv", [(visits[0], 0), (visits[1], 1)])
    assert [one["label"] for one in datalists.select(datalist=file, labels=labels)] == [0, 1]


def test_select_needs_to_know_where(tmp_path):
    with pytest.raises(DataListError, match=r"dataset_dir.*--datalist FILE.*--FLAIR FILE"):
        datalists.select()
    file = write_datalist(tmp_path / "list.json", training=[entry("1")])
    with pytest.raises(DataListError, match="section 'tests': expected one of training, validation, test"):
        datalists.select(datalist=file, section="tests")
    with pytest.raises(DataListError, match=r"list\.json: there is no patient in test"):
        datalists.select(datalist=file, section="test")


def test_volumes(tmp_path):
    dicom_study(tmp_path, "00001", ["T2w", "FLAIR"])
    assert datalists.volumes("a.nii.gz") == [{"image": "a.nii.gz"}]
    expected = [str(tmp_path / "00001" / name) for name in ("FLAIR", "T2w")]
    assert [item["image"] for item in datalists.volumes(dataset_dir=tmp_path)] == expected
