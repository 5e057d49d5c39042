"""How images come in batches: order, workers, memory."""
