import subprocess
from pathlib import Path


def test_a_job_gets_the_users_own_configurations(command, monkeypatch):
    started = []

    class Started:
        def __init__(self, command, **_):
            started.append(command)

        def wait(self):
            return 0

    own = Path("mine/model/tiny.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("teacher: {name: resnet8}\nstudent: {name: resnet8}\nlearning_rate: 0.01\n")
    monkeypatch.setattr(subprocess, "Popen", Started)
    command("-m", "--config-dir=mine", "run_dir='a b'", "model=tiny", "trainer=ddp_cpu", "seed=1,2")
    assert len(started) == 2
    for number, words in enumerate(started):
        assert f"--config-dir={Path('mine').resolve()}" in words
        assert words[-1] == f"run_dir='{Path('a b').resolve()}/{number}'"
        assert {"model=tiny", f"seed={number + 1}"} <= set(words)
