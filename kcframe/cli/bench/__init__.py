"""`kcframe bench`: what things cost, measured here, the compared ways taking turns."""
