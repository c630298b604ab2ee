"""Patient-level differential privacy: engines, noise, plan, accountant, ledger and audit."""
