from genhub.testing import check_scheduler
from my_scheduler import MyScheduler


def test_my_scheduler() -> None:
    check_scheduler(MyScheduler)
