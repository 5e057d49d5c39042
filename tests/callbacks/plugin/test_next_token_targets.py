import warnings

import lightning.pytorch  # noqa: F401 - which says what rank this process has
import pytest
import torch

from ctkd_lightning.callbacks.plugin.calls import Call
from ctkd_lightning.callbacks.plugin.next_token_targets import NextTokenTargets
from ctkd_lightning.features._arguments import ArgumentGuard

OUT = -100
IDS = torch.arange(24).reshape(2, 12)
MOVED = torch.cat([IDS[:, 1:], torch.full((2, 1), OUT)], dim=1)


class CausalLMOutput(dict):
    """Named as transformers name it."""


def call(*args, output=None, **kwargs) -> Call:
    return Call(args, kwargs, output, ArgumentGuard("{where}").keep(args, kwargs))


def prompt(labels):
    labels = labels.clone()
    labels[:, :3] = OUT
    return labels


@pytest.mark.parametrize("given", [call(input_ids=IDS, labels=prompt(IDS)), call(IDS), call({"input_ids": IDS})])
def test_labels_at_the_tokens_own_places_are_moved(given):
    with pytest.warns(UserWarning, match="taken to be the next one"):
        found = NextTokenTargets(OUT)(prompt(IDS), given)
    assert found.tolist() == [[OUT, OUT, *row[3:], OUT] for row in IDS.tolist()]


def test_transformers_say_so_themselves():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(NextTokenTargets(OUT)(IDS, call(input_ids=IDS, output=CausalLMOutput())), MOVED)


@pytest.mark.parametrize(
    "target",
    [
        MOVED,  # by the collator
        torch.where(IDS % 5 == 0, IDS, OUT) + 0,  # of masked tokens, see below
        IDS % 3,  # classes of tokens
    ],
)
def test_other_targets_stay(target, recwarn):
    tokens = torch.where(IDS % 5 == 0, 99, IDS)  # as masked language models are given them
    tokens = IDS if target is MOVED else tokens
    assert NextTokenTargets(OUT)(target, call(input_ids=tokens)) is target
    assert not recwarn


def test_padding_and_packed_documents_are_read_of_the_call():
    mask, places = torch.ones_like(IDS), torch.arange(12).expand(2, -1).clone()
    mask[0, :2] = 0  # on the left
    places[1] = torch.arange(12) % 6
    given = call(input_ids=IDS, attention_mask=mask, position_ids=places, output=CausalLMOutput())
    expected = MOVED.clone()
    expected[0, :2] = expected[1, 5] = OUT
    assert torch.equal(NextTokenTargets(OUT)(IDS, given), expected)


def test_few_labels_are_moved_from_the_first_batch_on():
    """Answers of one token, as of questions with choices."""
    answer = torch.full_like(IDS, OUT)
    answer[:, -1] = IDS[:, -1]
    targets, given = NextTokenTargets(OUT), call(input_ids=IDS, output=CausalLMOutput())
    for _ in range(6):
        found = targets(answer, given)
        assert found[:, -2].tolist() == IDS[:, -1].tolist()
        assert int((found != OUT).sum()) == 2


def test_it_does_not_look_again_when_it_has_seen_enough():
    targets, given = NextTokenTargets(OUT), call(input_ids=IDS, output=CausalLMOutput())
    assert torch.equal(targets(IDS, given), MOVED)
    assert torch.equal(targets(IDS + 1, given)[:, :-1], IDS[:, 1:] + 1)


def test_a_few_masked_tokens_that_stayed_decide_for_their_batch_alone(recwarn):
    """Of the tokens that a masked model predicts one in ten is left as it is."""
    stayed, others = torch.full_like(IDS, OUT), torch.where(IDS % 5 == 0, IDS, OUT)
    stayed[0, 3] = IDS[0, 3]
    targets = NextTokenTargets(OUT)
    targets(stayed, call(input_ids=IDS))
    assert targets(others, call(input_ids=torch.where(IDS % 5 == 0, 99, IDS))) is others
    assert targets(stayed, call(input_ids=IDS)) is stayed


LEFT = torch.ones_like(IDS)
LEFT[:, :4] = 0


@pytest.mark.parametrize("of", [torch.Tensor.long, torch.Tensor.bool, torch.Tensor.float])
@pytest.mark.parametrize("way", ["name", "position", "mapping"])
def test_padding_is_read_however_it_is_passed(of, way):
    mask, output = of(LEFT), CausalLMOutput()
    given = {
        "name": call(input_ids=IDS, attention_mask=mask, output=output),
        "position": call(IDS, mask, output=output)._replace(parameters=("input_ids", "attention_mask")),
        "mapping": call({"input_ids": IDS, "attention_mask": mask}, output=output),
    }[way]
    assert NextTokenTargets(OUT)(IDS, given).tolist() == [[OUT] * 4 + row[4:] for row in MOVED.tolist()]


def test_equal_tokens_say_nothing():
    ones = torch.ones_like(IDS)
    assert NextTokenTargets(OUT)(ones, call(input_ids=ones)) is ones


@pytest.mark.parametrize("target", [None, torch.zeros(4, dtype=torch.long), torch.zeros(2, 12)])
def test_what_is_no_sequence_of_labels_stays(target):
    assert NextTokenTargets(OUT)(target, call(torch.zeros(4, 3))) is target
