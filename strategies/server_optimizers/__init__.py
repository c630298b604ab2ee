"""What the lead does with the mean update."""
