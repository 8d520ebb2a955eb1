from my_model import MyModel

from genhub.testing import check_model


def test_my_model() -> None:
    check_model(MyModel)
