"""What happens inside one site: the training loop, predictions, metrics, the model's state."""
