"""Knowledge distillation with learned temperatures for PyTorch Lightning."""
