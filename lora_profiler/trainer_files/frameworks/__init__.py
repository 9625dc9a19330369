"""What each framework's keys mean: one file of data a framework."""
