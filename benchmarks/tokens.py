"""Which temperature distils a language model? Python's standard library as pairs of bytes, a student with few texts.

    python -m benchmarks.tokens [--seeds N] [--arms …]     what the file of results does not hold yet
    python -m benchmarks.tokens --table                    what is known, into docs/tokens.md

The settings are those of ``experiment=tokens_stdlib``. A teacher of four layers and 3.7 million parameters learns from
all training files, once, and is kept as teachers are; its students, of one layer and 0.48 million, have 150,000 of
their tokens and 400 steps of 16 texts of 128 tokens, and their loss is 0.1 · cross-entropy + 0.9 · KD.

The protocol, fixed before the first run:

- What counts is bits a byte on 131,072 tokens of files that nobody trained on, after the last step. Nothing is chosen
  by them; there is no validation.
- All arms of a seed start from the same student and see the same texts in the same order.
- From a store: the teacher's outputs are kept before the training and read in its place (``teacher_cache=``).
- Differences are to a constant τ of 1, paired by seed, with Student's interval at 95 %.
"""

from __future__ import annotations

from benchmarks.task_study import ROOT, TaskStudy
from ctkd_lightning.job.measures import MEASURES


def _fixed(tau: int) -> tuple[str, ...]:
    return "temperature=fixed", f"temperature.tau={tau}"


_STORE = "teacher_cache=auto"
_LEARNED = "global, [1, 5] from 1.2"
STUDY = TaskStudy(
    name="tokens",
    experiment="tokens_stdlib",
    arms={
        "no teacher": ("method=none",),
        "fixed 1": _fixed(1),
        "fixed 2": _fixed(2),
        "fixed 4": _fixed(4),
        _LEARNED: (),
        "the same, cooperative": ("temperature.objective=cooperative",),
        "global, [1, 21] from 15.6": ("temperature=global",),
        "fixed 1, from a store": (*_fixed(1), _STORE),
        "fixed 4, from a store": (*_fixed(4), _STORE),
        f"{_LEARNED}, from a store": (_STORE,),
    },
    reference="fixed 1",
    compared=tuple((f"{arm}, from a store", arm) for arm in ("fixed 1", "fixed 4", _LEARNED)),
    measures=MEASURES["language"][:1],
    page=ROOT / "docs" / "tokens.md",
    first_seed=1,
)

if __name__ == "__main__":
    STUDY.main(__doc__)
