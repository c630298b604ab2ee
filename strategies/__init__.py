"""The lead's side: server application, round loop, aggregation, server optimizers."""
