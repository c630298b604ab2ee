"""Server-side state of two-sided methods: arrays that the lead sends to the sites together with the model."""
