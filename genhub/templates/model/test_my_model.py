from genhub.testing import check_model
from my_model import MyModel


def test_my_model() -> None:
    check_model(MyModel)
