from my_metric import MyMetric

from genhub.testing import check_metric


def test_my_metric() -> None:
    check_metric(MyMetric)
