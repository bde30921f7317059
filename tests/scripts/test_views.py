import pytest
import torch

from scripts.views import FieldOfView, ZoomedCentre, stretch, view_of


@pytest.mark.parametrize("spacing", [(0.01, 0.01), (100, 100), None, (1, 0.001)])
def test_a_pixel_size_that_no_head_has_is_not_believed(spacing):
    slices = torch.rand(3, 40, 40)
    assert isinstance(view_of(slices, 0, spacing, 32, 1.2, 200), ZoomedCentre)
    assert isinstance(view_of(slices, 0, (5, 5), 32, 1.2, 200), FieldOfView)
    assert isinstance(view_of(slices, 0, (5, 5), 32, 1.2, None), ZoomedCentre)


def test_a_field_lies_about_the_middle_of_the_head():
    slices = torch.zeros(2, 100, 100)
    slices[:, 10:30, 60:90] = 9
    view = view_of(slices, 0, (1, 2), 50, 1.2, 100)
    assert (view.first, view.extent) == ([20 - 50, 75 - 25], [100, 50])
    assert isinstance(view_of(0 * slices, 0, (1, 2), 50, 1.2, 100), FieldOfView), "an empty picture has a middle too"


@pytest.mark.parametrize("view", [ZoomedCentre(32, 1.25), FieldOfView(32, [48, 40], [20, 30])])
def test_what_is_shown_comes_back_to_its_place(view):
    slices = torch.zeros(1, 40, 60)
    slices[:, 16:28, 26:38] = 255
    back = view.back((view.show(slices) / 255)[:, None], slices.shape[1:], as_masks=True)
    assert back.dtype == torch.uint8
    assert (back[0, 0] != (slices[0] > 127)).float().mean() < 0.02


def test_a_window_becomes_black_to_white():
    images = torch.tensor([0.0, 20, 70, 120, 255])
    assert stretch(images, (20, 120)).tolist() == [0, 0, 127.5, 255, 255]
    assert stretch(images, (0, 255)) is images
