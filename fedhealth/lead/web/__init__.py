"""The lead's page in a browser on its own machine, for reading: members, studies and their answers, runs, budgets."""
