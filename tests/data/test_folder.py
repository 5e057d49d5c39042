import os

import pytest

from ctkd_lightning.data._folder import check_folder, class_folders, list_images
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


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "more/.cache/deep", ".git"])
def test_hidden_folders_do_not_count(tmp_path, hidden):
    write_images(tmp_path / "ape", 2)
    write_images(tmp_path / "ape" / "more", 1)
    write_images(tmp_path / "ape" / hidden, 2)
    for junk in ("._0.png", ".DS_Store", "more/._0.png"):
        (tmp_path / "ape" / junk).write_text("")
    assert list_images(tmp_path, ["ape"])[0] == ["ape/0.png", "ape/1.png", "ape/more/0.png"]


def link(path, target):
    path.symlink_to(target, target_is_directory=True)


@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."], ids=["folder", "class", "split", "root"])
def test_links_in_circles_are_passed_over(tmp_path, target):
    split = tmp_path / "root" / "train"
    write_images(split / "cat" / "deep", 2)
    write_images(split / "dog", 1)
    write_images(tmp_path / "root" / "val" / "cat", 1)
    link(split / "cat" / "deep" / "back", target)
    names, targets = list_images(split, ["cat", "dog"])
    assert names == ["cat/deep/0.png", "cat/deep/1.png", "dog/0.png"]
    assert targets == [0, 0, 1]


def test_a_circle_through_a_folder_elsewhere(tmp_path):
    elsewhere = tmp_path / "store" / "cats"
    write_images(elsewhere, 2)
    write_images(tmp_path / "train" / "dog", 1)
    (tmp_path / "train" / "cat").mkdir()
    link(tmp_path / "train" / "cat" / "stored", elsewhere)
    link(elsewhere / "back", tmp_path / "train")
    link(elsewhere / "up", tmp_path / "store")
    assert list_images(tmp_path / "train", ["cat", "dog"])[0] == ["cat/stored/0.png", "cat/stored/1.png", "dog/0.png"]


def test_folders_that_all_link_to_each_other_are_listed_once(tmp_path):
    parts = [tmp_path / "cat" / f"part{number:02d}" for number in range(12)]
    for part in parts:
        write_images(part, 1)
    for part in parts:  # as a tree of links this has 12! branches
        for other in parts:
            link(part / f"to_{other.name}", other)
    assert list_images(tmp_path, ["cat"])[0] == [f"cat/{part.name}/0.png" for part in parts]


def test_linked_folders_are_followed(tmp_path):
    write_images(tmp_path / "elsewhere" / "deep", 2)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    link(tmp_path / "train" / "cat" / "b", tmp_path / "elsewhere" / "deep")
    link(tmp_path / "train" / "cat" / "a", tmp_path / "elsewhere" / "deep")
    link(tmp_path / "train" / "dog", tmp_path / "elsewhere")
    names, _ = list_images(tmp_path / "train", class_folders(tmp_path / "train"))
    assert names == ["cat/a/0.png", "cat/a/1.png", "dog/deep/0.png", "dog/deep/1.png"]


def test_a_class_folder_that_links_back(tmp_path):
    write_images(tmp_path / "cat", 1)
    link(tmp_path / "nowhere", "nowhere")
    assert class_folders(tmp_path) == ["cat"]
    link(tmp_path / "all", tmp_path)
    with pytest.raises(UserError, match=r"^the class folder .*/all is a link to a folder that holds it: remove the"):
        class_folders(tmp_path)


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
