"""Why a strategy wins: what the objectives look like around the iterates of a training."""
