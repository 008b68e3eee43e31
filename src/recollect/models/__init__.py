"""What remembers: recurrent and state-space models, their parameterisations and their files."""
