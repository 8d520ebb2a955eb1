from my_trainer import MyTrainer

from genhub.testing import check_trainer


def test_my_trainer() -> None:
    check_trainer(MyTrainer)
