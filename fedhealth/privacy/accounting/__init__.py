"""What is spent: accountant, plan, ledger, reservations and budget."""
