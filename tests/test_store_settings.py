import pytest

from ctkd_lightning._store_settings import check_store_settings
from ctkd_lightning.errors import UserError

FINE = {"tolerance": 0.03, "top": 0, "rank": None, "batch_size": 1}


def test_what_can_be():
    check_store_settings(**FINE)
    check_store_settings(**{**FINE, "rank": 1})


@pytest.mark.parametrize(
    "wrong", [{"tolerance": 0}, {"top": -1}, {"top": None}, {"rank": 0}, {"rank": 1.5}, {"batch_size": 0}]
)
def test_what_cannot_be(wrong):
    with pytest.raises(UserError, match=f"^{next(iter(wrong))} must be a"):
        check_store_settings(**{**FINE, **wrong})
