"""What happens around a stage while it runs: launch, attempts, lock, status, prune, what a job asks for."""
