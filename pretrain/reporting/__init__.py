"""How did a run go, and what has its network learned? One page of curves, pictures and facts."""
