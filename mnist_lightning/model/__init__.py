"""The heart, second half: the nets, the loss and its schedule, the LightningModule, what a checkpoint holds."""
