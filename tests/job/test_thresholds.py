import pytest
import torch
from torch import nn

from ctkd_lightning import DistillationModule
from ctkd_lightning.data import DigitMasks, Digits
from ctkd_lightning.job.thresholds import fit_temperatures
from ctkd_lightning.methods import DIST, KD
from ctkd_lightning.temperature import EnergyTemperature, LSKDTemperature


def test_thresholds_are_those_of_the_images_that_train():
    torch.manual_seed(0)
    data = Digits()
    data.setup("fit")
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(data.example_image[0].numel(), 10)) for _ in range(2)]
    temperatures = {"kd": EnergyTemperature(), "dist": LSKDTemperature(EnergyTemperature())}
    module = DistillationModule(*networks, {"kd": KD(), "dist": DIST()}, temperatures)
    fit_temperatures(module, data)

    pictures = data.pictures("train", data.train_indices) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    with torch.no_grad():
        energies = (-4 * torch.logsumexp(networks[0]((pictures - mean) / std) / 4, 1)).sort().values
    share = int(0.2 * len(energies))
    for temperature in (temperatures["kd"], temperatures["dist"].base):
        assert temperature.low == pytest.approx(energies[share].item(), abs=1e-3)
        assert temperature.high == pytest.approx(energies[-share - 1].item(), abs=1e-3)


def test_given_thresholds_stay():
    networks = nn.Linear(2, 3), nn.Linear(2, 3)
    module = DistillationModule(*networks, temperature=EnergyTemperature(low=-2.0, high=-1.0))
    fit_temperatures(module, None)
    assert module.distillation.temperature.low == -2.0


def test_of_maps_they_are_of_the_pixels():
    torch.manual_seed(0)
    data = DigitMasks(train_size=4, val_size=1, test_size=1)
    networks = [nn.Conv2d(3, 11, 1) for _ in range(2)]
    module = DistillationModule(*networks, KD(), EnergyTemperature(), class_dim=1)
    fit_temperatures(module, data)
    images = torch.cat([batch.image for batch in data.train_dataloader()])
    with torch.no_grad():
        energies = (-4 * torch.logsumexp(networks[0](images) / 4, 1)).flatten().sort().values
    share, found = int(0.2 * len(energies)), module.distillation.temperature
    assert (found.low, found.high) == pytest.approx((energies[share].item(), energies[-share - 1].item()), abs=1e-3)
