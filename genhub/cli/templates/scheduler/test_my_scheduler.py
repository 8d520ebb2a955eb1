from my_scheduler import MyScheduler

from genhub.testing import check_scheduler


def test_my_scheduler() -> None:
    check_scheduler(MyScheduler)
