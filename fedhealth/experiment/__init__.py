"""Many runs of one question: which are planned, which are missing, and what they show together."""
