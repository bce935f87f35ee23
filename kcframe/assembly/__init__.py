"""Names become objects: every worker builds its components from the resolved recipe; objects never travel."""
