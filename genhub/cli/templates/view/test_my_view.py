from my_view import MyView

from genhub.testing import check_view


def test_my_view() -> None:
    check_view(MyView)
