"""Logits that were scaled are scaled back; elsewhere torch's LBFGS agrees."""

import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning.errors import UserError
from ctkd_lightning.fusion import TemperatureFusion, fit_temperatures

FACTORS = {"image": 3.0, "audio": 0.25, "text": 1.0}


def calibrated(size=20000, classes=4):
    """Scores whose softmax is the truth, so that the best temperature is 1."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(size, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)


def test_a_known_factor_is_found():
    logits, target = calibrated()
    fusion = TemperatureFusion(4, list(FACTORS), "fixed")
    scaled = {name: factor * logits for name, factor in FACTORS.items()}
    found = fit_temperatures(fusion, scaled, target)
    assert found == pytest.approx(FACTORS, rel=0.03)
    ratio = [found[name] / found["text"] for name in FACTORS]
    assert ratio == pytest.approx(list(FACTORS.values()), rel=1e-3)
    _, taus = fusion(scaled)
    assert {n: tau.item() for n, tau in taus.items()} == pytest.approx(found)


@pytest.mark.parametrize("kind", ["fixed", "global", "instance"])
def test_as_lbfgs_over_the_samples_that_have_it(kind):
    generator = torch.Generator().manual_seed(1)
    logits = {name: 3 * torch.randn(300, 4, generator=generator) for name in FACTORS}
    target = torch.randint(4, (300,), generator=generator)
    logits["image"] += 2 * F.one_hot(target, 4)
    logits["audio"] += 4 * F.one_hot(target, 4)
    logits["text"] += 6 * F.one_hot(target, 4)
    mask = torch.rand(300, 3, generator=generator) < 0.8
    fusion = TemperatureFusion(4, list(FACTORS), kind, tau_init=2.0)
    _, taus = fusion(logits, mask)
    found = fit_temperatures(fusion, logits, target, mask)
    for m, name in enumerate(FACTORS):
        kept = mask[:, m]
        softened = (logits[name] / taus[name].detach())[kept].double()
        log_k = torch.zeros((), dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([log_k], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

        def closure(softened=softened, kept=kept, log_k=log_k, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(softened / log_k.exp(), target[kept])
            loss.backward()
            return loss

        optimizer.step(closure)
        assert found[name] == pytest.approx(log_k.exp().item(), rel=1e-3)
    again = fit_temperatures(fusion, logits, target, mask)  # from the start, not on top of the last
    assert again == pytest.approx(found)


def test_it_is_part_of_the_checkpoint_and_keeps_the_mode():
    logits, target = calibrated(200)
    fusion = TemperatureFusion(4, list(FACTORS), joint={"image": 2}).train()
    scaled = {name: factor * logits for name, factor in FACTORS.items()}
    features = {"image": torch.randn(200, 2)}
    fit_temperatures(fusion, scaled, target, features=features)
    assert fusion.training
    other = TemperatureFusion(4, list(FACTORS), joint={"image": 2}).eval()
    other.load_state_dict(fusion.state_dict())
    fusion.eval()
    assert torch.equal(other(scaled, features=features)[0], fusion(scaled, features=features)[0])


def test_what_no_sample_has_keeps_its_temperature():
    logits, target = calibrated(200)
    fusion = TemperatureFusion(4, list(FACTORS), "fixed")
    found = fit_temperatures(fusion, {"image": logits, "audio": None, "text": logits}, target)
    assert found["audio"] == 1.0


def test_what_has_no_best_level_is_said():
    logits, target = calibrated(500)
    right, wrong = (10.0 * F.one_hot((target + shift) % 4, 4).float() for shift in (0, 1))
    fusion = TemperatureFusion(4, list(FACTORS), "fixed")
    with pytest.warns(UserWarning, match="fit_temperatures found no level") as said:
        found = fit_temperatures(fusion, {"image": logits, "audio": right, "text": wrong}, target)
    audio, text = (str(warning.message) for warning in said)
    assert "for 'audio': its scores of these 500 samples are all right, and the surer the better;" in audio
    assert "for 'text': its scores of these 500 samples say nothing of the target;" in text
    assert found["audio"] < 0.1 < 100 < found["text"]


def test_what_is_refused():
    logits, target = calibrated(20)
    fusion = TemperatureFusion(4, list(FACTORS), "fixed")
    with pytest.raises(UserError, match="one class index a position"):
        fit_temperatures(fusion, dict.fromkeys(FACTORS, logits), target[:10])
    with pytest.raises(UserError, match="no scores of"):
        fit_temperatures(fusion, {"image": logits}, target)
