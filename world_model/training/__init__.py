"""Training: the one loop, the models that it trains in both stages, checkpoints, augmentation."""
