"""What recorded numbers say: paired statistics over seeds."""
