from ctkd_lightning._words import counted, cpu_threads


def test_one_and_many():
    assert counted(1, "run", "runs") == "1 run"
    assert counted(2, "run", "runs") == "2 runs"
    assert [cpu_threads(number) for number in (1, 2)] == ["1 CPU thread", "2 CPU threads"]
