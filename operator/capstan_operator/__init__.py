"""The Capstan operator: api (the resources), core (the decisions, pure), shell (everything with an effect)."""
