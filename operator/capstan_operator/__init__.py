"""The Capstan operator: api (the resources), core (pure decisions), shell (everything with an effect)."""
