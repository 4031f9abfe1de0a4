"""One rank: model, engine, steps, its part of a checkpoint. Only `rank` knows Ray."""
