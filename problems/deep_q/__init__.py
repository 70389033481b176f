"""Deep Q-learning with a body and a head, all runs at once."""
