"""What an InferenceService becomes: the Deployment of a revision, and when it takes over."""
