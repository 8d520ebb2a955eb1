from my_modality import MyModality

from genhub.testing import check_modality


def test_my_modality() -> None:
    check_modality(MyModality, values=[0.01, 0.5, 1, 20, 3e6])
