from ctkd_lightning.job import RunDirectory
from ctkd_lightning.job.fusion_table import print_fusion_table
from ctkd_lightning.job.summary import FusionSummary

VIEWS = ["profiles", "fourier", "karhunen_loeve", "morphology", "pixels", "zernike"]
CONDITIONS = ["clean", "noise", "drop", "stuck", "shuffle", "noise_3", "two_noise_3"]


def summary(conditions=CONDITIONS, **changed):
    ways = ["fused", "product", "average", *VIEWS]
    numbers = {c: {way: 50.0 + 10 * i + j for j, way in enumerate(ways)} for i, c in enumerate(conditions)}
    for condition in conditions[1:]:
        numbers[condition] |= {"auroc/pixels": 0.25, "auroc/fourier": 0.5}
    values = {
        "data": "six_views", "temperature": "instance", "curriculum": "cosine", "seed": 1, "encoders": "linear",
        "fusion": "instance", "status": "complete", "modalities": VIEWS, "conditions": numbers,
        "final": {"ctkd/lambda": 1.0, **{f"ctkd/temperature/{view}": 1.25 for view in VIEWS}},
    }  # fmt: skip
    return FusionSummary(**{**values, **changed})


def printed(capsys, found):
    print_fusion_table(found, RunDirectory("run"))
    return capsys.readouterr().out


def test_everything_is_legible_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(capsys, summary(fitted=dict.fromkeys(VIEWS, 0.75)))
    assert max(map(len, text.splitlines())) <= 80
    for word in (*CONDITIONS, *(f"{view} alone" for view in VIEWS), *(f"1.25 {view}" for view in VIEWS)):
        assert word in text, word
    numbers = [f"{50.0 + 10 * i + j:.2f}" for i in range(len(CONDITIONS)) for j in range(3 + len(VIEWS))]
    assert all(number in text for number in numbers)
    assert "…" not in text
    assert all(line[20:].strip() == line[20:] for line in text.splitlines() if line.startswith(("τ", " ")))


def test_a_wide_terminal_has_one_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert printed(capsys, summary()).count("fused ") == 1


def test_what_is_not_defined_is_a_dash(capsys):
    """The mean of the areas there are; none on clean samples."""
    text = printed(capsys, summary(CONDITIONS[:2]))
    row = next(line for line in text.splitlines() if "AUROC" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["AUROC of τ", "–", "0.38"]


def test_a_run_that_was_stopped_before_its_test(capsys):
    text = printed(capsys, summary([], status="stopped", stage="encoders"))
    assert "stopped in stage encoders" in text
    assert "fused" not in text
