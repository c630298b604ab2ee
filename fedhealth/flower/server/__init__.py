"""The lead's side of Flower: SuperLink application, fleet and runtime APIs, redelivery."""
