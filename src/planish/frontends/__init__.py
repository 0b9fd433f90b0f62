"""Other people's interfaces in front of Planish."""
