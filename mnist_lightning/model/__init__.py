"""The heart, second half: the nets, the loss and its schedule, and the LightningModule."""
