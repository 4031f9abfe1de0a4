"""One attempt at a run, from the claim to the result: prepare, launch, listen, repair, finish, publish."""
