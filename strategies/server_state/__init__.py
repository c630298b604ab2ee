"""The lead's half of two-sided methods: arrays that travel beside the model."""
