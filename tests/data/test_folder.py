import os

import pytest

from ctkd_lightning.data.folder import check_folder, class_folders, list_images
from ctkd_lightning.errors import UserError
from tests.data.folders import write_images


def test_lists_images_by_class_at_any_depth(tmp_path):
    write_images(tmp_path / "cat" / "images", 1, suffix=".JPEG")
    write_images(tmp_path / "cat", 2, suffix=".webp")
    write_images(tmp_path / "ape", 1, suffix=".TIF")
    for other in ("notes.txt", ".0.png", "Thumbs.db"):
        (tmp_path / "ape" / other).write_text("")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "readme.md").write_text("")
    classes = class_folders(tmp_path)
    assert classes == ["ape", "cat"]
    names, targets = list_images(tmp_path, classes)
    assert names == ["ape/0.TIF", "cat/0.webp", "cat/1.webp", "cat/images/0.JPEG"]
    assert targets == [0, 1, 1, 1]


def test_no_class_folders(tmp_path):
    (tmp_path / "0.png").write_text("")
    with pytest.raises(UserError, match="holds no class folders"):
        class_folders(tmp_path)


def test_an_empty_class(tmp_path):
    write_images(tmp_path / "cat", 1)
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match=r"class folder .*dog holds no images: fill or remove it"):
        list_images(tmp_path, ["cat", "dog"])


def test_other_classes_than_expected(tmp_path):
    write_images(tmp_path / "cat", 1)
    with pytest.raises(UserError, match=r"missing ape, bee, cow and 1 more, extra cat: every split needs the same"):
        list_images(tmp_path, ["ape", "bee", "cow", "dog"])


def test_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the root .*/nowhere does not exist"):
        check_folder(tmp_path / "nowhere", "the root")
    with pytest.raises(UserError, match=r"the root .*/file is not a folder"):
        check_folder(tmp_path / "file", "the root")


def test_an_unreadable_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as one who reads everything
    with pytest.raises(UserError, match="cannot be read: change its permissions"):
        check_folder(tmp_path, "the root")


@pytest.mark.parametrize("unreadable", ["cat", "cat/more"])
def test_an_unreadable_folder_below_is_named(tmp_path, monkeypatch, unreadable):
    write_images(tmp_path / "cat", 1)
    write_images(tmp_path / "cat" / "more", 1)
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path) == str(tmp_path / unreadable):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(
        UserError, match=rf"the folder .*/{unreadable} cannot be read \(Permission denied\): change its"
    ):
        list_images(tmp_path, ["cat"])
