"""What several rooms need and none is about: processors, garbage, folders, names, versions."""
