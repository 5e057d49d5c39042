import pytest

from ctkd_lightning.errors import UserError
from ctkd_lightning.models._download import explained_download


def test_a_failed_download_says_what_to_do():
    with (
        pytest.raises(UserError, match=r"weights of x are neither cached .*\(no route\); .*pretrained=False") as error,
        explained_download("x"),
    ):
        raise OSError("no route\nand details")
    assert "\n" not in str(error.value)


def test_an_error_without_text_is_named():
    with pytest.raises(UserError, match=r"downloaded \(TimeoutError\)"), explained_download("x"):
        raise TimeoutError


def test_other_errors_pass():
    with pytest.raises(KeyError), explained_download("x"):
        raise KeyError("x")
