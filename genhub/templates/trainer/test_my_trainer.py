from genhub.testing import check_trainer
from my_trainer import MyTrainer


def test_my_trainer() -> None:
    check_trainer(MyTrainer)
