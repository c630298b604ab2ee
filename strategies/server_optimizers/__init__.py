"""Server optimizers: how the lead applies the mean client update to the global model."""
