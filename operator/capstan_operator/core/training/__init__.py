"""What a TrainingJob becomes: the children of an attempt, and when there is a next one."""
