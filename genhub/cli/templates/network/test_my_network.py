from my_network import MyNetwork

from genhub.testing import check_network


def test_my_network() -> None:
    check_network(MyNetwork, {"hidden": 32}, shapes=[(3, 8, 8), (2, 16), (5,)])
