"""Should we federate at all? Each site alone, all data in one place, one modality at a time."""
