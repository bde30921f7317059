"""Which series is which modality, and which of several is taken."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.studies.folders import find_studies
from scripts.studies.rules import choose, plain, read_rules
from scripts.studies.series import DicomSeries, DicomStudy, StudiesError
from tests.scripts.studies.exports import RULES, chosen, decisions, rules_with, studies_of

# Rules


@pytest.mark.parametrize(
    ("mri_type", "descriptions"),
    [
        ("FLAIR", ["FLAIR", "flair", "t2f", "AX FLAIR", "Ax T2 FLAIR FS", "t2_tirm_tra_dark-fluid", "T2_SPACE_DARKFLUID", "SAG CUBE FLAIR",
                   "AX FLAIR POST GAD", "t2_flair_KM"]),
        ("T1wCE", ["T1wCE", "t1ce", "T1c", "t1Gd", "T1w+C", "AX T1 POST GAD", "AX T1 +C", "Ax T1 + Gd", "t1_mprage_sag_KM", "SAG T1 POST",
                   "MPRAGE POST", "AX BRAVO +C", "3D FSPGR POST GAD", "T1W_3D_TFE_CONTRAST", "AX T1 FSE C+", "sT1W_SE CE",
                   "AX T1 FLAIR POST", "T1 AX POSTCONTRAST", "T1_SE_TRA_GADOVIST", "T1 (post)"]),
        ("T1w", ["T1w", "t1", "AX T1", "SAG T1 SE", "t1_mprage_sag_p2_iso", "MP-RAGE", "AX BRAVO", "3D FSPGR", "AX T1 FLAIR", "AX T1 PRE",
                 "T1 PRE CONTRAST", "T1 without contrast", "AX T1 W/O", "T1 NON-CONTRAST", "t1_se_tra_nativ", "sT1W_SE",
                 "T1 non contrast", "AX T1 pre-gad"]),
        ("T2w", ["T2w", "t2", "AX T2", "t2_tse_tra", "T2W_TSE", "AX T2 FSE", "Ax T2 PROPELLER", "t2_space_sag", "T2TSE"]),
        (None, ["3-plane LOC", "localizer", "Survey", "ADC", "AX DWI b1000", "ep2d_diff_3scan_trace", "T2*", "AX T2* GRE", "SWI",
                "Perfusion T1", "T1 SUB", "T1 POST MPR", "TOF MRA", "PD AX", "AX PD T2", "STIR", "T2 C-SPINE", "SAG T1 CSPINE",
                "T1 map", "screenshot", "AX T1 ORBITS POST", "", "something"]),
    ],
)  # fmt: skip
def test_common_descriptions(mri_type, descriptions):
    series = tuple(
        DicomSeries(str(i), "P", "1.2", "", text, i, (), 20, 20, 5.0, "axial", ("ORIGINAL",), "", "")
        for i, text in enumerate(descriptions)
    )
    found = choose(DicomStudy("1.2", "P", "", series), RULES)
    assert {one.series.description: one.mri_type for one in found} == dict.fromkeys(descriptions, mri_type)
    assert any(one.chosen for one in found) == (mri_type is not None)


@given(
    st.sampled_from(["T1w", "FLAIR", "AX T2 FSE", "AX T1 POST GAD"]), st.sampled_from([" ", "_", "-", "  ", "/", "_-"])
)
@settings(deadline=None, max_examples=30)
def test_separators_and_capitals_do_not_matter(description, separator):
    assert plain(description.replace(" ", separator)).lower() == description.lower()


def test_an_expression_must_match_the_whole_description(export, tmp_path):
    rules = rules_with(tmp_path, modalities={"T1w": ["^T1w$"]}, exclude=None, contrast_by_header_unless=None)
    for description in ("T1wCE", "T1w", "AX T1w"):
        export.series(description)
    assert chosen(export, rules) == {"T1w": "T1w"}
    rules = rules_with(tmp_path, modalities={"T1w": ["T1w"]}, exclude=None, contrast_by_header_unless=None)
    assert chosen(export, rules) == {"T1w": "T1w"}


def test_the_first_modality_that_fits_counts(export, tmp_path):
    export.series("both")
    for order in (("T1w", "T2w"), ("T2w", "T1w")):
        file = tmp_path / "rules.yaml"
        file.write_text(yaml.safe_dump({"modalities": {name: ["both"] for name in order}}, sort_keys=False))
        assert chosen(export, read_rules(file)) == {order[0]: "both"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("modalities: {T1w: ['(']}", "is not a regular expression"),
        ("modalities: {T1: [t1]}", "modality 'T1' is unknown; expected FLAIR"),
        ("modalities: {T1w: ['{t1}']}", "{t1} is not an expression"),
        ("modalities: {T1w: t1}", "modalities: T1w: expected a list, found 't1'"),
        ("modalities: {T1w: [t1]}\nexcluded: [x]", "'excluded' is unknown; expected words, exclude"),
        ("modalities: {T1w: [t1]}\nprefer: [best]", "prefer: 'best' is unknown"),
        ("modalities: {T1w: [t1]}\nmin_slices: 0", "min_slices is 0"),
        ("modalities: {T1w: [t1", "not YAML"),
        ("modalities: " + "[" * 5000, "not YAML"),
        ("modalities: {T1w: [\udcff]}", "not YAML"),
        ("modalities: {T1w: ['a{99999999999}']}", "is not a regular expression"),
        ("modalities: {T1w: [null]}", "modalities: T1w: expected a regular expression, found None"),
        ("modalities: {T1w: ['{a}']}\nwords: [a]", "words is ['a']; expected an expression for each name"),
        ("modalities: {T1w: [t1]}\nprefer: [[newest]]", "prefer: ['newest'] is unknown"),
        ("[]", "expected rules with `modalities:`"),
    ],
)
def test_mistakes_in_rules_are_named(tmp_path, content, words):
    file = tmp_path / "rules.yaml"
    file.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(StudiesError, match=re.escape(words)) as info:
        read_rules(file)
    assert str(file) in str(info.value)
    assert "\n" not in str(info.value)
    with pytest.raises(StudiesError, match="no such file of rules"):
        read_rules(tmp_path / "none.yaml")


def test_rules_of_a_thousand_million_words_are_refused_in_a_sentence(tmp_path):
    file = tmp_path / "rules.yaml"
    lines = [
        "a0: &a0 [x, x, x, x, x, x, x, x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 5)),
    ]
    file.write_text("\n".join(["modalities:", *(f"  {line}" for line in lines), "  FLAIR: [*a4]"]))
    with pytest.raises(StudiesError) as info:
        read_rules(file)
    assert len(str(info.value)) < 1000


# Several series of a modality


def test_more_slices_are_preferred(export):
    export.series("AX T2", slices=12, SeriesNumber=1)
    export.series("SAG T2", slices=20, SeriesNumber=2)
    found = decisions(export)
    assert found["SAG T2"].chosen
    assert not found["AX T2"].chosen
    assert found["AX T2"].reason == "series 2 'SAG T2' was preferred: more slices, 20 and 12"
    assert found["SAG T2"].reason.endswith("preferred to 1 other series: more slices, 20 and 12")


def test_of_equal_ones_the_newest_is_preferred_or_the_oldest(export, tmp_path):
    for time in ("090000", "113000.5", "101500"):
        export.series(f"AX T2 at {time}", AcquisitionDate="20200102", AcquisitionTime=time)
    rules = {name: rules_with(tmp_path, prefer=["slices", name]) for name in ("newest", "oldest")}
    assert chosen(export, rules["newest"]) == {"T2w": "AX T2 at 113000.5"}
    assert chosen(export, rules["oldest"]) == {"T2w": "AX T2 at 090000"}


def test_original_images_are_preferred_to_derived_ones(export):
    export.series("AX T2", slices=12)
    export.series("AX T2 filtered", slices=20, ImageType=["DERIVED", "SECONDARY"])
    assert chosen(export) == {"T2w": "AX T2"}


def test_thin_slices_may_be_preferred(export, tmp_path):
    export.series("AX T2", slices=20, step=5.0)
    export.series("3D T2", slices=12, step=1.0)
    assert chosen(export, rules_with(tmp_path, prefer=["thin"])) == {"T2w": "3D T2"}


def test_flair_before_contrast_is_preferred(export):
    export.series("FLAIR POST GAD", slices=20)
    export.series("FLAIR AX", slices=12)
    assert chosen(export) == {"FLAIR": "FLAIR AX"}


def test_what_is_alike_in_everything_is_asked_about(export):
    export.series("AX T2 b", SeriesNumber=7)
    export.series("AX T2 a", SeriesNumber=5)
    export.series("FLAIR", patient="P-2", study="1.2.4")
    asked, other = find_studies(export.folder)
    assert (
        asked["reason"]
        == "5 AX T2 a and 7 AX T2 b are both T2w of patient P-1; keep one of them, or name it with --T2w"
    )
    assert set(other) == {"patient", "FLAIR", "study"}


# Contrast agent in the header


def test_of_two_alike_series_the_one_with_contrast_agent_is_t1wce(export):
    export.series("AX T1", SeriesNumber=1)
    with_agent = export.series("AX T1", SeriesNumber=9, ContrastBolusAgent="Gadovist")
    (study,) = studies_of(export.folder)
    found = {one.series.uid: one for one in choose(study, RULES) if one.chosen}
    assert found[with_agent].mri_type == "T1wCE"
    assert "contrast agent 'Gadovist'" in found[with_agent].reason
    assert sorted(one.mri_type for one in found.values()) == ["T1w", "T1wCE"]


def test_headers_are_asked_only_where_no_description_names_contrast(export):
    """Where the agent was entered before the first series, all name it."""
    export.series("AX T1", ContrastBolusAgent="Gadovist")
    export.series("AX T1 POST", ContrastBolusAgent="Gadovist")
    assert chosen(export) == {"T1w": "AX T1", "T1wCE": "AX T1 POST"}


@pytest.mark.parametrize(("description", "agent"), [("AX T1 PRE", "Gadovist"), ("AX T1", "NONE"), ("AX T1", "")])
def test_a_header_does_not_overrule(export, description, agent):
    export.series(description, ContrastBolusAgent=agent)
    assert chosen(export) == {"T1w": description}


def test_headers_may_be_left_unasked(export, tmp_path):
    export.series("AX T1", ContrastBolusAgent="Gadovist")
    assert chosen(export, rules_with(tmp_path, contrast_by_header_unless=None)) == {"T1w": "AX T1"}
