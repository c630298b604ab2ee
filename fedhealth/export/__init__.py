"""The exported model: its files, its card, and prediction with it."""
