"""`kcframe bench`: measure costs on this machine. The compared ways take turns."""
